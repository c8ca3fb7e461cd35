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
    """Keys and values in buffers of fixed size, each row written at a slot given by the device.

    A pass over fewer rows than there are takes the first ones.

    Parameters
    ----------
    like : a layer whose sizes and dtype are taken, not its entries
    slots : int64 tensor (rows,)
        Slot of each row's next token; the decoding loop increments it.
    room : int
        Slots of a row, those in use included.
    """

    def __init__(self, like: GrowingLayer, slots: Tensor, room: int) -> None:
        super().__init__()
        self._slots = slots
        _, g, _, d = like.keys.shape
        # laid out (rows, slots, G, D), as flash kernels for packed sequences need it
        self.keys, self.values = (
            x.new_zeros(len(slots), room, g, d).transpose(1, 2) for x in (like.keys, like.values)
        )
        self.is_initialized = True

    def take(self, grown: GrowingLayer) -> None:
        """Reset all rows to `grown`'s; older entries in later slots stay, but are not seen."""
        for mine, given in ((self.keys, grown.keys), (self.values, grown.values)):
            mine[:, :, : grown.length] = given[:, :, : grown.length]

    def put(self, row: int, grown: GrowingLayer, index: int, slots: Tensor | slice) -> None:
        """Reset one row to the entries in `slots` of row `index` of `grown`."""
        for mine, given in ((self.keys, grown.keys), (self.values, grown.values)):
            entries = given[index, :, : grown.length][:, slots]
            mine[row, :, : entries.shape[1]] = entries

    def copy(self, rows: int, other: FixedLayer, room: int) -> None:
        """Take the first `room` slots of the first `rows` rows of `other`."""
        for mine, given in ((self.keys, other.keys), (self.values, other.values)):
            mine[:rows, :, :room] = given[:rows, :, :room]

    def move(self, source: int, target: int, used: int) -> None:
        """Copy the first `used` entries of row `source` to row `target`."""
        for mine in (self.keys, self.values):
            mine[target, :, :used] = mine[source, :, :used]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the buffers exist from the start."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write (B, G, 1, D) into the first B rows and return all their slots, (B, G, room, D)."""
        rows = len(key_states)
        at = self._slots[:rows, None, None, None].expand_as(key_states)
        keys, values = self.keys[:rows], self.values[:rows]
        keys.scatter_(2, at, key_states)
        values.scatter_(2, at, value_states)
        return keys, values

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
        """Return empty fixed layers of `rooms` slots that go on at `slots` (rows,), one each."""
        return Cache(layers=list(map(FixedLayer, self.layers, slots, rooms)))
