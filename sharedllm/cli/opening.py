"""Before the first question of the commands that answer: options, model, memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharedllm.memory.folder import file_of

if TYPE_CHECKING:
    from sharedllm.memory.tree_memory import TreeMemory
    from sharedllm.shared_llm import SharedLLM


def given(**options: Any) -> dict[str, Any]:
    """Return the options that were given; for the others the model has defaults."""
    return {name: value for name, value in options.items() if value is not None}


def check_place(
    device: str | None = None, dtype: str | None = None, quantize: str | None = None
) -> None:
    """Refuse an unavailable device, dtype or way to quantise before files are read."""
    if (device, dtype, quantize) != (None, None, None):
        from sharedllm.hf.loading import resolve_device, resolve_dtype
        from sharedllm.hf.quantization import require_quantize

        resolve_dtype(dtype, resolve_device(device))
        require_quantize(quantize)


def loaded(
    folder: str | None, named: dict[str, Any], *, create: bool = False
) -> tuple[SharedLLM, TreeMemory | None]:
    """Load the model, and open the memory in `folder` if one is given.

    Parameters
    ----------
    named : arguments of ``SharedLLM.from_pretrained``; of a memory that is there, its own are taken
    create : make the memory where there is none; else it has to hold a document
    """
    options = dict(named)
    if "adapter" in options:
        options["adapter"] = None if options["adapter"] == "none" else options["adapter"]
    if folder is not None and (not create or file_of(Path(folder)) != (0, 0)):
        from sharedllm.memory.resolve import open_memory
        from sharedllm.registry import loaded_for

        memory = open_memory(folder)
        if not create:
            memory.require_documents()
        return loaded_for(memory, **options), memory
    from sharedllm.shared_llm import SharedLLM

    llm = SharedLLM.from_pretrained(options.pop("model", None), **options)
    if folder is None:
        return llm, None
    from sharedllm.memory.resolve import open_memory

    return llm, open_memory(folder, llm=llm, create=True)
