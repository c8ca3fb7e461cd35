"""What a tree memory was made by: the model, its tokenizer and the settings, as plain values."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from sharedllm.config import number, one_of
from sharedllm.encoding import fingerprint
from sharedllm.errors import ConfigError, StoreDamagedError, StoreMismatchError

if TYPE_CHECKING:
    from sharedllm.shared_llm import SharedLLM

KEEPS = ("text", "coarse", "all")
VECTOR_FORMATS = ("compact", "exact")
KV_FORMATS = ("exact", "bf16", "int8", "int4")
LEARNED_FORMAT = 1  # of search vectors and node KV: raise it when they come out differently


@dataclass(frozen=True, kw_only=True, slots=True)
class MemorySettings:
    """How a tree memory keeps its documents.

    Parameters
    ----------
    keep : {"text", "coarse", "all"}
        Beside text and search vectors: nothing, the root of every chunk, or every level that
        search takes as KV (verbatim leaves are always encoded on demand).
    kv : {"bf16", "int8", "int4", "exact"}
        How KV is stored; "exact" in the model's own type.
    vectors : {"compact", "exact"}
        How search vectors are stored: as codes of 64 bytes a token, or whole in float16.
    embedder : str
        What embeds chunks for the prefilter; "states" is the model itself.
    """

    keep: str = "text"
    kv: str = "bf16"
    vectors: str = "compact"
    embedder: str = "states"

    def __post_init__(self) -> None:
        one_of("keep", self.keep, KEEPS)
        one_of("kv", self.kv, KV_FORMATS)
        one_of("vectors", self.vectors, VECTOR_FORMATS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a memory belongs to.

    Attributes
    ----------
    settings : MemorySettings
    made_by : mapping of str to str
        What decides search vectors and KV, by name: two memories with the same values hold the
        same arrays.
    loads : mapping
        What :func:`sharedllm.registry.loaded` needs to load the model again.
    """

    settings: MemorySettings
    made_by: Mapping[str, str]
    loads: Mapping[str, Any]

    @property
    def digest(self) -> bytes:
        """What chunk keys take in."""
        given = {"made_by": dict(self.made_by), **dataclasses.asdict(self.settings)}
        return hashlib.blake2b(json.dumps(given, sort_keys=True).encode(), digest_size=16).digest()

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        try:
            given = json.loads(text)
            return cls(
                settings=MemorySettings(**given["settings"]),
                made_by=given["made_by"],
                loads=given["loads"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise StoreDamagedError(
                f"the memory's manifest cannot be read: {error}; restore the memory from a copy"
            ) from error

    def require(self, other: Manifest, folder: str) -> None:
        """Refuse `other`, what somebody wants to use this memory with.

        Raises
        ------
        StoreMismatchError
            Naming everything that differs.
        """
        pairs = {**dataclasses.asdict(self.settings), **self.made_by}
        others = {**dataclasses.asdict(other.settings), **other.made_by}
        wrong = [
            f"{name.replace('_', ' ')} {pairs.get(name)!r} (given: {others.get(name)!r})"
            for name in dict.fromkeys([*pairs, *others])
            if pairs.get(name) != others.get(name)
        ]
        if wrong:
            raise StoreMismatchError(
                f"the memory in {folder!r} was made with {'; '.join(wrong)}. Open it with the "
                "same, or with rebuild=True to encode all its documents again"
            )


def manifest_of(llm: SharedLLM, settings: MemorySettings) -> Manifest:
    """The manifest of a memory that `llm` makes."""
    weights, tokenizer = fingerprint.of(llm.model, llm.tokenizer)
    made_by = {
        "weights": weights,
        "tokenizer": tokenizer,
        "tree": json.dumps(dataclasses.asdict(llm.tree)),
        "dtype": str(llm.model.dtype).removeprefix("torch."),
        "format": str(LEARNED_FORMAT),
    }
    if settings.keep != "text":  # search vectors are the base's, whatever the injection
        made_by["layers"] = str(llm.lower.layers)
        made_by["adapter"] = llm.adapter.fingerprint() if llm.adapter else "none"
    named = llm.loaded_from is not None
    model, adapter = llm.loaded_from or (None, None)
    loads = {
        "named": named,
        "model": model,
        "adapter": adapter,
        "dtype": made_by["dtype"],
        "tree": dataclasses.asdict(llm.tree),
        "injection": dataclasses.asdict(llm.injection),
    }
    return Manifest(settings=settings, made_by=made_by, loads=loads)


def seconds(name: str, value: object) -> float:
    """`value`, checked to be a length of time.

    Raises
    ------
    ConfigError
    """
    number(name, value, least=0)
    if not isinstance(value, int | float):
        raise ConfigError(f"{name} is {value!r}; it must be a number of seconds")
    return float(value)
