"""The model that a memory's manifest names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sharedllm.config import InjectionConfig, TreeConfig
from sharedllm.encoding.document_encoder import DocumentEncoder, loaded_encoder
from sharedllm.errors import StoreMismatchError
from sharedllm.memory.identity import Manifest, manifest_of


def load(manifest: Manifest, folder: Path, **changes: Any) -> DocumentEncoder:
    """Load the model of `manifest`, or give the one that is loaded.

    Parameters
    ----------
    changes : what :func:`loaded_encoder` is to be given in place of the manifest's; what
        does not fit the memory is refused when it is used

    Raises
    ------
    StoreMismatchError
        If the manifest names none, or the weights under that name are others now.
    ModelNotFoundError, AdapterError
    """
    given = manifest.loads
    if not given.get("named"):
        raise StoreMismatchError(
            f"the memory in {str(folder)!r} was made by a model that was not loaded by a name; "
            "open it with TreeMemory(path, llm=...)"
        )
    own = {
        "adapter": given["adapter"],
        "dtype": given["dtype"],
        "tree": TreeConfig.from_dict(given["tree"]),
        "injection": InjectionConfig.from_dict(given["injection"]),
    }
    llm = loaded_encoder(given["model"], **{**own, **changes})
    if not changes:
        manifest.require(manifest_of(llm, manifest.settings), str(folder))
    return llm
