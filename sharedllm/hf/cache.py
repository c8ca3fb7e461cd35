"""KV caches for transformers: one captures the KV of nodes, others hold a prompt with injected KV.

Shapes: B batch, G key/value heads, S slots, D head dim, K entries kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from sharedllm.hf.rope import Rotation

SPARE = 64  # slots for the first tokens of an answer


class CaptureCache(Cache):
    """Collects, layer by layer, the KV of chosen tokens of one packed row, the rotation removed.

    Parameters
    ----------
    kept, positions : int64 tensors (K,)
        Indices in the row of the tokens to keep, and their positions.

    Attributes
    ----------
    keys, values : list of (G, K, D), one a layer
    """

    def __init__(self, rotation: Rotation, kept: Tensor, positions: Tensor) -> None:
        super().__init__(layers=[])
        self._kept = kept
        self._unrotated = rotation.unrotation(positions[None])
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        keys = self._unrotated(key_states.index_select(2, self._kept), layer_idx)[0]
        values = value_states[0].index_select(1, self._kept)
        if layer_idx == len(self.keys):  # else gradient checkpointing recomputes the layer
            self.keys.append(keys)
            self.values.append(values)
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


class GrowingLayer(CacheLayerMixin):
    """Keys and values in one buffer that doubles when full, so that most steps copy nothing.

    Parameters
    ----------
    room : int
        Slots known to be needed.
    """

    def __init__(self, room: int = 0) -> None:
        super().__init__()
        self.length = 0
        self._room = room

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = key_states.new_empty(0)
        self.values = value_states.new_empty(0)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append (B, G, T, D) and return all entries so far, (B, G, S, D)."""
        self.keys = self._append(self.keys, key_states)
        self.values = self._append(self.values, value_states)
        self.is_initialized = True
        self.length += key_states.shape[2]
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def _append(self, buffer: Tensor | None, new: Tensor) -> Tensor:
        b, g, t, d = new.shape
        needed = self.length + t
        if buffer is None or buffer.numel() == 0 or buffer.shape[2] < needed:
            room = max(needed + SPARE, 2 * self.length, self._room + SPARE)
            grown = new.new_empty(b, g, room, d)
            if self.length and buffer is not None:
                grown[:, :, : self.length] = buffer[:, :, : self.length]
            buffer = grown
        buffer[:, :, self.length : needed] = new
        return buffer

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1


class FixedLayer(CacheLayerMixin):
    """Keys and values in a buffer of fixed size, written at a slot given by a device tensor.

    Parameters
    ----------
    grown : initial keys and values
    slot : int64 tensor (1,)
        Slot of the next token; the decoding loop increments it.
    room : int
        Slots, those in use included.
    """

    def __init__(self, grown: GrowingLayer, slot: Tensor, room: int) -> None:
        super().__init__()
        self._slot = slot
        b, g, _, d = grown.keys.shape
        # laid out (B, slots, G, D), as flash kernels for packed sequences need it
        self.keys, self.values = (
            x.new_zeros(b, room, g, d).transpose(1, 2) for x in (grown.keys, grown.values)
        )
        self.is_initialized = True
        self.take(grown)

    def take(self, grown: GrowingLayer) -> None:
        """Reset to the entries of `grown`; older entries in later slots stay, but are not seen."""
        for mine, given in ((self.keys, grown.keys), (self.values, grown.values)):
            mine[:, :, : grown.length] = given[:, :, : grown.length]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the buffers exist from the start."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write (B, G, 1, D) and return all slots, (B, G, room, D)."""
        self.keys.index_copy_(2, self._slot, key_states)
        self.values.index_copy_(2, self._slot, value_states)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_max_length(), 0

    def get_seq_length(self) -> int:
        return 0  # the number is on the device only

    def get_max_length(self) -> int:
        return int(self.keys.shape[2])


class InjectionCache(Cache):
    """The KV of a prompt; the first layers also hold the injected entries.

    Parameters
    ----------
    rooms : slots that each layer is known to need; empty if unknown
    """

    def __init__(self, layers: int, rooms: Sequence[int] = ()) -> None:
        super().__init__(layers=[GrowingLayer(room) for room in rooms or [0] * layers])

    def inject(self, keys: Tensor, values: Tensor) -> None:
        """Append rotated KV (M, B, G, S, D) to the first M layers."""
        for layer, k, v in zip(self.layers, keys, values, strict=False):
            layer.update(k, v)

    def first_row(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield keys and values (1, G, S, D) of the first row, layer by layer."""
        for layer in self.layers:
            yield layer.keys[:1, :, : layer.length], layer.values[:1, :, : layer.length]

    def fixed(self, slots: Sequence[Tensor], rooms: Sequence[int]) -> Cache:
        """Return a copy with fixed layers of `rooms` slots that go on at `slots`, one each."""
        return Cache(layers=list(map(FixedLayer, self.layers, slots, rooms)))
