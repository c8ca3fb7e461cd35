"""The manifest of a memory: how it keeps documents, and the model and settings that made it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from sharedllm.config import InjectionConfig, TreeConfig, require_one_of
from sharedllm.encoding.document_encoder import DocumentEncoder, fingerprint, loaded_encoder
from sharedllm.errors import TreeMemoryDamagedError, TreeMemoryMismatchError
from sharedllm.hf.loading import DTYPES

KEEPS = ("text", "leaves", "coarse", "all")
VECTOR_FORMATS = ("compact", "exact")
KV_FORMATS = ("exact", "bf16", "int8", "int4")
LEARNED_FORMAT = 1  # of search vectors and node KV: raise it when they come out differently


@dataclass(frozen=True, kw_only=True, slots=True)
class MemorySettings:
    """The form in which a memory keeps its documents.

    Parameters
    ----------
    keep : {"text", "leaves", "coarse", "all"}
        Beside text and search vectors: nothing, the KV of every leaf at the leaf ratio, of every
        chunk's root, or of every compressed node that search takes as KV.
    kv : {"bf16", "int8", "int4", "exact"}
        How KV is stored; "exact" in the model's own type.
    vectors : {"compact", "exact"}
        How search vectors are stored: as codes of 64 bytes a token, or whole in float16.
    """

    keep: str = "text"
    kv: str = "bf16"
    vectors: str = "compact"

    def __post_init__(self) -> None:
        require_one_of("keep", self.keep, KEEPS)
        require_one_of("kv", self.kv, KV_FORMATS)
        require_one_of("vectors", self.vectors, VECTOR_FORMATS)

    @classmethod
    def of(cls, given: Mapping[str, str], held: Self | None = None) -> Self:
        """Return the settings that are `given`, and for the others those `held`, or the defaults.

        Leaves are as large as all KV, so that where they begin to be stored it is in int8, unless
        another form is given.
        """
        before = {} if held is None else dataclasses.asdict(held)
        begins = given.get("keep") == "leaves" != before.get("keep")
        return cls(**{**before, **({"kv": "int8"} if begins else {}), **given})


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The model and the settings that a memory belongs to.

    Attributes
    ----------
    settings : MemorySettings
    made_by : mapping of str to str
        What decides search vectors and KV, by name: two memories with the same values hold the
        same numbers.
    loads : mapping
        The arguments with which :func:`loaded_encoder` loads the model again.
    """

    settings: MemorySettings
    made_by: Mapping[str, str]
    loads: Mapping[str, Any]

    @classmethod
    def of(cls, encoder: DocumentEncoder, settings: MemorySettings) -> Self:
        """The manifest of a memory that `encoder` makes."""
        weights, tokenizer = fingerprint(encoder.model, encoder.tokenizer)
        made_by = {
            "weights": weights,
            "tokenizer": tokenizer,
            "tree": json.dumps(dataclasses.asdict(encoder.tree)),
            "dtype": str(encoder.model.dtype).removeprefix("torch."),
            "format": str(LEARNED_FORMAT),
        }
        if settings.keep != "text":  # search vectors are the base's, whatever the injection
            made_by["layers"] = str(encoder.lower.layers)
            made_by["adapter"] = encoder.adapter.fingerprint() if encoder.adapter else "none"
        model, adapter = encoder.loaded_from or (None, None)
        loads = {
            "named": encoder.loaded_from is not None,
            "model": model,
            "adapter": adapter,
            "dtype": made_by["dtype"],
            "tree": dataclasses.asdict(encoder.tree),
            "injection": dataclasses.asdict(encoder.injection),
        }
        return cls(settings=settings, made_by=made_by, loads=loads)

    @property
    def digest(self) -> bytes:
        """A hash that the keys of chunks take in."""
        given = {"made_by": dict(self.made_by), **dataclasses.asdict(self.settings)}
        return hashlib.blake2b(json.dumps(given, sort_keys=True).encode(), digest_size=16).digest()

    @property
    def tree(self) -> TreeConfig:
        """The tree settings that the chunks were made with."""
        return TreeConfig.from_dict(self.loads["tree"])

    def to_json(self) -> str:
        """The manifest as it is stored."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` gave.

        Raises
        ------
        TreeMemoryDamagedError
        """
        try:
            given = json.loads(text)
            made_by, loads = dict(given["made_by"]), dict(given["loads"])
            if not all(isinstance(value, str) for value in made_by.values()):
                raise TypeError("made_by holds something else than texts")
            for name in ("model", "adapter"):
                if not isinstance(loads[name], str | None):
                    raise TypeError(f"the {name} is {loads[name]!r}")
            TreeConfig.from_dict(loads["tree"])
            InjectionConfig.from_dict(loads["injection"])
            require_one_of("dtype", loads["dtype"], tuple(DTYPES))
            return cls(settings=MemorySettings(**given["settings"]), made_by=made_by, loads=loads)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise TreeMemoryDamagedError(
                f"the memory's manifest cannot be read: {error}; restore the memory from a copy"
            ) from error

    def require(self, other: Manifest, folder: Path) -> None:
        """Refuse to use the memory in `folder` as if its manifest were `other`.

        Raises
        ------
        TreeMemoryMismatchError
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
            raise TreeMemoryMismatchError(
                f"the memory in {str(folder)!r} was made with {'; '.join(wrong)}. Open it with the "
                "same, or with rebuild=True to encode all its documents again"
            )

    @property
    def needs_names(self) -> dict[str, str]:
        """Model and adapter that do not come with SharedLLM, so that a caller has to name them."""
        ours = {"model": (None,), "adapter": (None, "default")}
        given = self.loads
        return {kind: given[kind] for kind, own in ours.items() if given[kind] not in own}

    def load(self, folder: Path, **changes: Any) -> DocumentEncoder:
        """Load the encoder that the memory in `folder` was made by, once a process.

        The memory may come from a stranger, so what it names is loaded only if it comes with
        SharedLLM; another model or adapter has to be named by the caller as well.

        Parameters
        ----------
        changes : arguments of :func:`loaded_encoder` in place of the manifest's; what does not fit
            the memory is refused when it is used

        Raises
        ------
        TreeMemoryMismatchError
            If the manifest names no model, or one that was not named by the caller; or if the
            weights under the name are others now.
        ModelNotFoundError, AdapterError
        """
        given = self.loads
        if not given.get("named") and "model" not in changes:
            raise TreeMemoryMismatchError(
                f"the memory in {str(folder)!r} was made by a model that was not loaded by a name; "
                "open it with TreeMemory(path, llm=...)"
            )
        for kind, name in self.needs_names.items():
            if kind not in changes:
                raise TreeMemoryMismatchError(
                    f"the memory in {str(folder)!r} was made with the {kind} {name!r}, and "
                    "a memory's word is not enough to load it: name it yourself "
                    f"(TreeMemory(path, llm=...), loaded_for(memory, {kind}=...), or --{kind})"
                )
        own = {
            "model": given["model"],
            "adapter": given["adapter"],
            "dtype": given["dtype"],
            "tree": TreeConfig.from_dict(given["tree"]),
            "injection": InjectionConfig.from_dict(given["injection"]),
        }
        arguments = {**own, **changes}
        encoder = loaded_encoder(arguments.pop("model"), **arguments)
        if not changes:
            self.require(Manifest.of(encoder, self.settings), folder)
        return encoder
