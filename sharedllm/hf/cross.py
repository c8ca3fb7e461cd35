"""Cross injection: a cross-attention over memory after self-attention (paper, section 3.3).

For an injection layer with residual stream x: h = x + self_attention(norm(x)), then
h + out(attend(query(norm'(h)), K', V')). Norm, query and output projections start as copies of the
layer's own. It hangs on three public PyTorch hooks; without memory it does nothing.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from sharedllm.attention.select import Attend
from sharedllm.hf.families import ModelShape
from sharedllm.hf.rotation import Rotation
from sharedllm.injection import LayerMemory


class CrossInjection(nn.Module):
    """The cross-attention of one layer."""

    def __init__(self, layer: Any, config: Any, shape: ModelShape, rotation: Rotation) -> None:
        super().__init__()
        attention = layer.self_attn
        self.norm = copy.deepcopy(layer.input_layernorm)
        self.query = shape.family.copy_query(attention, config)
        self.query_norm = copy.deepcopy(getattr(attention, "q_norm", None)) or nn.Identity()
        self.out = copy.deepcopy(attention.o_proj)
        self.scale = float(attention.scaling)
        self.head_dim = shape.head_dim
        self._rotation = rotation

    def forward(self, h: Tensor, memory: LayerMemory, layer: int, attend: Attend) -> Tensor:
        """What to add to the residual stream `h` (B, T, hidden)."""
        b, t, _ = h.shape
        query = self.query_norm(self.query(self.norm(h)).view(b, t, -1, self.head_dim))
        query = self._rotation.rotate(query.transpose(1, 2), memory.cross_position)
        keys, values = memory.keys[layer].to(query.dtype), memory.values[layer].to(query.dtype)
        mask = memory.visibility.mask(None)
        out = attend(query, keys, values, mask, scale=self.scale)
        result: Tensor = self.out(out.transpose(1, 2).reshape(b, t, -1))
        return result


def install(
    model: Any, shape: ModelShape, rotation: Rotation, layers: int, attend: Attend
) -> nn.ModuleList:
    """Give the first `layers` layers of `model` a cross-attention and return them.

    The modules are registered on the decoder as ``cross_injection``, so that they move, save and
    train with it.
    """
    decoder = model.get_decoder()
    crosses = nn.ModuleList(
        CrossInjection(layer, model.config, shape, rotation) for layer in decoder.layers[:layers]
    )
    decoder.cross_injection = crosses
    for index, (layer, cross) in enumerate(zip(decoder.layers, crosses, strict=False)):
        residual: dict[str, Tensor] = {}

        def keep(module: nn.Module, args: Any, *, _residual: dict[str, Tensor] = residual) -> None:
            _residual["x"] = args[0]

        def add(
            module: nn.Module,
            args: Any,
            kwargs: dict[str, Any],
            output: Any,
            *,
            _residual: dict[str, Tensor] = residual,
            _cross: nn.Module = cross,
            _index: int = index,
        ) -> Any:
            x = _residual.pop("x")
            shared = kwargs.get("shared")
            if shared is None or shared.crossed is None:
                return output
            attended, *others = output
            crossed = _cross(x + attended, shared.crossed, _index, attend)
            return (attended + crossed, *others)

        layer.input_layernorm.register_forward_pre_hook(keep)
        layer.self_attn.register_forward_hook(add, with_kwargs=True)
    return crosses
