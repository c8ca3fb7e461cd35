"""Cross injection: cross-attention over injected KV after self-attention (paper, section 3.3).

For an injection layer with residual stream x: h = x + self_attention(norm(x)), then
h + out(attend(query(norm'(h)), K', V')). Norm, query and output projections start as copies of the
layer's own. It is installed by public PyTorch hooks; without injected KV it does nothing.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from sharedllm.attention.backends import Attend
from sharedllm.attention.context import AttentionContext, LayerMemory
from sharedllm.hf.architectures import ModelShape
from sharedllm.hf.rope import Rotation


class CrossInjection(nn.Module):
    """The cross-attention of one layer."""

    def __init__(self, layer: Any, shape: ModelShape, rotation: Rotation, attend: Attend) -> None:
        super().__init__()
        attention = layer.self_attn
        self.norm = copy.deepcopy(layer.input_layernorm)
        self.query = shape.family.copy_query(attention)
        self.query_norm = copy.deepcopy(getattr(attention, "q_norm", None)) or nn.Identity()
        self.out = copy.deepcopy(attention.o_proj)
        self.scale = float(attention.scaling)
        self.head_dim = shape.head_dim
        self._rotation = rotation
        self.attend = attend

    def forward(self, h: Tensor, memory: LayerMemory, layer: int) -> Tensor:
        """Return the addition to the residual stream `h` (B, T, hidden); 0 where no KV is seen."""
        b, t, _ = h.shape
        query = self.query_norm(self.query(self.norm(h)).view(b, t, -1, self.head_dim))
        query = self._rotation.rotate(query.transpose(1, 2), memory.cross_position, layer)
        keys, values = memory.keys[layer].to(query.dtype), memory.values[layer].to(query.dtype)
        mask = memory.visibility.mask(None)
        out = self.attend(query, keys, values, mask, scale=self.scale)
        result: Tensor = self.out(out.transpose(1, 2).reshape(b, t, -1))
        if mask is not None:  # a bias of the projection would be added to rows that see nothing
            result = result * mask.any(dim=-1)[..., None].to(result.dtype)
        return result


def install(
    model: Any, shape: ModelShape, rotation: Rotation, layers: int, attend: Attend
) -> nn.ModuleList:
    """Give the first `layers` layers of `model` a cross-attention; return all of them.

    The modules are registered on the decoder as ``cross_injection``, so that they move, save and
    train with it. Modules from an earlier call stay.
    """
    decoder = model.get_decoder()
    crosses: nn.ModuleList = getattr(decoder, "cross_injection", None) or nn.ModuleList()
    for index in range(len(crosses), layers):
        layer = decoder.layers[index]
        crosses.append(CrossInjection(layer, shape, rotation, attend))
        _hook(layer, crosses[index], index)
    for cross in crosses:
        cross.attend = attend  # type: ignore[assignment]
    decoder.cross_injection = crosses
    return crosses


def _hook(layer: Any, cross: nn.Module, index: int) -> None:
    """Let `layer` add `cross` to its residual stream after self-attention."""
    residual: list[Tensor] = []

    def keep(module: nn.Module, args: Any) -> None:
        residual[:] = [args[0]]

    def add(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        x = residual.pop()
        shared = kwargs.get("shared")
        if not isinstance(shared, AttentionContext):  # packed nodes see no injected KV
            return output
        if shared.crossed is None or index >= shared.layers:
            return output
        attended, *others = output
        return (attended + cross(x + attended, shared.crossed, index), *others)

    layer.input_layernorm.register_forward_pre_hook(keep)
    layer.self_attn.register_forward_hook(add, with_kwargs=True)
