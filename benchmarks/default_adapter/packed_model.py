"""The two roles over packed rows, for training: a Llama decoder written out.

It computes what :func:`sharedllm.training.batch.losses` computes, apart from rounding
(tests/benchmarks/test_packed_training.py), at lower cost. Low-rank matrices are added to the base's
weights once a step, so that a token costs one product per matrix instead of three; text and KV are
packed, so that there is no padding and no mask; everything between the products is compiled.

Shapes: L layers, T tokens of either row, U tokens of the upper row, K KV entries, P predicted
tokens, V vocabulary, H query heads, G key/value heads, D head dim, R rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch._dynamo
from torch import Tensor, nn
from torch.nn.functional import (
    cross_entropy,
    embedding,
    kl_div,
    linear,
    rms_norm,
    scaled_dot_product_attention,
    silu,
)

MATRICES = {
    "q": "self_attn/q_proj",
    "k": "self_attn/k_proj",
    "v": "self_attn/v_proj",
    "o": "self_attn/o_proj",
    "gate": "mlp/gate_proj",
    "up": "mlp/up_proj",
    "down": "mlp/down_proj",
}
ROLES = ("lower", "upper")


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """The matrices of one role, one per layer; those with the same input are joined."""

    qkv: tuple[Tensor, ...]
    o: tuple[Tensor, ...]
    gate_up: tuple[Tensor, ...]
    down: tuple[Tensor, ...]


class PackedModel(nn.Module):
    """A base model and the low-rank matrices of its two roles.

    Parameters
    ----------
    model : a transformers Llama
    rank, alpha : of the low-rank matrices
    compiled : compile what lies between one layer's attention and the next's
    """

    def __init__(self, model: Any, rank: int, alpha: float, *, compiled: bool) -> None:
        super().__init__()
        config, decoder = model.config, model.get_decoder()
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.size = decoder.layers[0].self_attn.head_dim
        self.epsilon, self.scale = config.rms_norm_eps, alpha / rank
        self.layers = len(decoder.layers)
        self.embed = decoder.embed_tokens.weight.detach()
        self.head = model.get_output_embeddings().weight.detach()
        self.norm = decoder.norm.weight.detach()
        self.norms = [
            (layer.input_layernorm.weight.detach(), layer.post_attention_layernorm.weight.detach())
            for layer in decoder.layers
        ]
        self.base = {
            name: torch.stack([_matrix(layer, path) for layer in decoder.layers])
            for name, path in MATRICES.items()
        }
        frequencies = decoder.rotary_emb.inv_freq.float()
        angles = torch.arange(16384, device=self.embed.device)[:, None] * frequencies
        both = torch.cat([angles, angles], dim=-1)
        self.cos, self.sin = both.cos().to(self.embed.dtype), both.sin().to(self.embed.dtype)
        self.low = nn.ParameterDict()
        for role in ROLES:
            for name, weight in self.base.items():
                layers, outputs, inputs = weight.shape
                down = torch.empty(layers, rank, inputs, device=weight.device)
                nn.init.kaiming_uniform_(down.view(-1, inputs), a=5**0.5)
                self.low[f"{role}_{name}_down"] = nn.Parameter(down)
                up = torch.zeros(layers, outputs, rank, device=weight.device)
                self.low[f"{role}_{name}_up"] = nn.Parameter(up)
        self._before: Callable[..., Any] = _before
        self._after: Callable[..., Any] = _after
        if compiled:
            self._before = torch.compile(_before, fullgraph=True)
            self._after = torch.compile(_after, fullgraph=True)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copy the weights of an adapter (:meth:`sharedllm.hf.lora.Adapter.weights`).

        They may have a lower rank with the same alpha / rank; the added rows of `down` are random
        and the added columns of `up` zero, so that they change nothing yet.
        """
        with torch.no_grad():
            for key, parameter in self.low.items():
                role, name, side = key.split("_")
                for layer in range(self.layers):
                    given = weights[f"{self._module(layer, name)}.{role}.{side}"]
                    if side == "down":
                        parameter[layer, : len(given)] = given
                    else:
                        parameter[layer, :, : given.shape[1]] = given

    def weights(self) -> dict[str, Tensor]:
        """Return the weights in the form that :meth:`load` takes."""
        out = {}
        for key, parameter in self.low.items():
            role, name, side = key.split("_")
            for layer, own in enumerate(parameter.detach().cpu()):
                out[f"{self._module(layer, name)}.{role}.{side}"] = own.contiguous()
        return out

    def _module(self, layer: int, name: str) -> str:
        return f"model/layers/{layer}/{MATRICES[name]}"

    def role(self, name: str) -> Weights:
        """Add the role's low-rank matrices to the base's."""

        def whole(matrix: str) -> Tensor:
            up, down = (self.low[f"{name}_{matrix}_{side}"] for side in ("up", "down"))
            base = self.base[matrix]
            return torch.baddbmm(base.float(), up, down, alpha=self.scale).to(base.dtype)

        return Weights(
            qkv=torch.cat([whole(x) for x in "qkv"], dim=1).unbind(),
            o=whole("o").unbind(),
            gate_up=torch.cat([whole("gate"), whole("up")], dim=1).unbind(),
            down=whole("down").unbind(),
        )

    def forward(self, batch: Mapping[str, Tensor], longest: tuple[int, int, int]) -> Tensor:
        """Compute the logits of the predicted tokens (P, V)."""
        memory = self._memory(batch, longest[0]) if len(batch["lower_ids"]) else None
        upper = self.role("upper")
        cos, sin = self._angles(batch["positions"])
        x = self._embedded(batch["ids"])
        for layer in range(self.layers):
            q, k, v = self._before(
                x, self.norms[layer][0], upper.qkv[layer], cos, sin, *self._form, self.epsilon
            )
            if memory is not None:
                k = torch.cat([k, memory[layer][0]])
                v = torch.cat([v, memory[layer][1]])
            k, v = k.index_select(0, batch["keys"]), v.index_select(0, batch["keys"])
            mixed = attend(
                q, k, v, batch["query_bounds"], batch["key_bounds"], longest[1], longest[2]
            )
            x = self._tail(x, mixed, upper, layer)
            _any_length(x)
        x = rms_norm(x.index_select(0, batch["rows"]), x.shape[-1:], self.norm, self.epsilon)
        return linear(x, self.head)

    def _embedded(self, ids: Tensor) -> Tensor:
        """Return the first layer's input; it needs a gradient like later ones, to compile once."""
        x = embedding(ids, self.embed).requires_grad_(torch.is_grad_enabled())
        _any_length(x)
        return x

    @property
    def _form(self) -> tuple[int, int, int]:
        return self.heads, self.groups, self.size

    def _angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        _any_length(cos, sin)
        return cos, sin

    def _memory(self, batch: Mapping[str, Tensor], longest: int) -> list[tuple[Tensor, Tensor]]:
        """Encode the KV of every layer: keys, rotated to their places, and values (K, G, D)."""
        lower = self.role("lower")
        cos, sin = self._angles(batch["lower_positions"])
        where = self._angles(batch["kept_positions"])
        bounds, kept = batch["lower_bounds"], batch["kept"]
        x = self._embedded(batch["lower_ids"])
        out = []
        for layer in range(self.layers):
            norm, qkv = self.norms[layer][0], lower.qkv[layer]
            out.append(_kept(x.index_select(0, kept), norm, qkv, *where, *self._form, self.epsilon))
            if layer == self.layers - 1:
                break
            q, k, v = self._before(x, norm, qkv, cos, sin, *self._form, self.epsilon)
            mixed = attend(q, k, v, bounds, bounds, longest, longest)
            x = self._tail(x, mixed, lower, layer)
            _any_length(x)
        return out

    def _tail(self, x: Tensor, mixed: Tensor, role: Weights, layer: int) -> Tensor:
        mixed = mixed.flatten(1)
        _any_length(x, mixed)
        out: Tensor = self._after(
            x,
            mixed,
            role.o[layer],
            self.norms[layer][1],
            role.gate_up[layer],
            role.down[layer],
            self.epsilon,
        )
        return out


def losses(logits: Tensor, batch: Mapping[str, Tensor], lessons: int, distil: float) -> Tensor:
    """Compute the mean cross-entropy of each lesson's target, in nats; shape (lessons,).

    `distil` is the weight of an added KL divergence from the predictions of a lesson's twin.
    """
    each = cross_entropy(logits.float(), batch["targets"].long(), reduction="none")
    owner = batch["owner"].long()
    if distil and len(batch["student"]):
        student, teacher = batch["student"].long(), batch["teacher"].long()
        own = logits[student].float().log_softmax(-1)
        taught = logits[teacher].detach().float().log_softmax(-1)
        gap = kl_div(own, taught, log_target=True, reduction="none").sum(-1)
        each = each.index_add(0, student, distil * gap)
    empty = torch.zeros(lessons, device=each.device)
    return empty.index_add(0, owner, each) / empty.index_add(0, owner, torch.ones_like(each))


def _any_length(*tensors: Tensor) -> None:
    """Mark the first dimension as dynamic: compile for every length, not for the first one."""
    for tensor in tensors:
        torch._dynamo.maybe_mark_dynamic(tensor, 0)


def _matrix(layer: Any, path: str) -> Tensor:
    module = layer
    for name in path.split("/"):
        module = getattr(module, name)
    weight: Tensor = module.weight
    return weight.detach()


def _before(
    x: Tensor,
    norm: Tensor,
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    heads: int,
    groups: int,
    size: int,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute queries (T, H, D) and keys (T, G, D), rotated, and values (T, G, D)."""
    out = linear(rms_norm(x, x.shape[-1:], norm, epsilon), qkv).view(len(x), -1, size)
    q, k, v = out.split([heads, groups, groups], dim=1)
    return _rotated(q, cos, sin), _rotated(k, cos, sin), v.contiguous()


def _kept(
    x: Tensor,
    norm: Tensor,
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    heads: int,
    groups: int,
    size: int,
    epsilon: float,
) -> tuple[Tensor, Tensor]:
    """Compute keys, rotated to their places in the prompt, and values of kept tokens."""
    own = qkv[heads * size :]
    out = linear(rms_norm(x, x.shape[-1:], norm, epsilon), own).view(len(x), -1, size)
    k, v = out.split([groups, groups], dim=1)
    return _rotated(k, cos, sin), v.contiguous()


def _after(
    x: Tensor,
    mixed: Tensor,
    o: Tensor,
    norm: Tensor,
    gate_up: Tensor,
    down: Tensor,
    epsilon: float,
) -> Tensor:
    """Compute the rest of a layer after attention."""
    x = x + linear(mixed, o)
    gate, up = linear(rms_norm(x, x.shape[-1:], norm, epsilon), gate_up).chunk(2, dim=-1)
    return x + linear(silu(gate) * up, down)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_bounds: Tensor,
    key_bounds: Tensor,
    longest_query: int,
    longest_key: int,
) -> Tensor:
    """Attend within packed segments, causal at the lower right: the last query sees all keys."""
    if query.device.type == "cuda":
        out: Tensor = torch.ops.aten._flash_attention_forward(
            query,
            key,
            value,
            query_bounds,
            key_bounds,
            longest_query,
            longest_key,
            0.0,
            True,
            False,
            scale=query.shape[-1] ** -0.5,
        )[0]
        return out
    return _attend_each(query, key, value, query_bounds.tolist(), key_bounds.tolist())


def _attend_each(
    query: Tensor, key: Tensor, value: Tensor, queries: list[int], keys: list[int]
) -> Tensor:
    """Attend segment by segment in float32, where there is no kernel for packed rows."""
    out = []
    shared = query.shape[1] // key.shape[1]
    for n in range(len(queries) - 1):
        q = query[queries[n] : queries[n + 1]].float()
        k, v = (
            x[keys[n] : keys[n + 1]].float().repeat_interleave(shared, dim=1) for x in (key, value)
        )
        seen = torch.ones(len(q), len(k), dtype=torch.bool, device=q.device).tril(len(k) - len(q))
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=seen)
        out.append(mixed[0].transpose(0, 1).to(query.dtype))
    return torch.cat(out)
