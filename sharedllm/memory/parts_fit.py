"""The settings that all parts of a memory share: checked, or given to new parts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sharedllm.encoding.document_encoder import DocumentEncoder, HasEncoder
from sharedllm.errors import InputError, TreeMemoryMismatchError
from sharedllm.memory import maintenance, tables
from sharedllm.memory.folder import file_of
from sharedllm.memory.tree_memory import TreeMemory


def make_parts(
    folder: Path,
    names: Sequence[str],
    llm: HasEncoder | None = None,
    settings: Mapping[str, str] | None = None,
) -> list[Path]:
    """Make empty memories in a folder that can be parts of one; those that are there stay.

    All but the first are exported from it, so that search vectors mean the same in each.
    """
    folders = [folder / name for name in names]
    given: dict[str, Any] = dict(settings or {})
    with TreeMemory(folders[0], llm=llm, **given) as first:
        _ = first._working  # gives it a codec
        for one in folders[1:]:
            if file_of(one) == (0, 0):
                first.export(one, [])
    return folders


def require_alike(memories: Sequence[TreeMemory], encoder: DocumentEncoder | None = None) -> str:
    """Refuse memories that cannot be parts of one; give the hash of their codec.

    Parameters
    ----------
    encoder : fits a codec where all memories are new; None loads their own

    Raises
    ------
    InputError, TreeMemoryMismatchError
    """
    require_once([os.path.realpath(one.path) for one in memories])
    first = memories[0]
    for other in memories[1:]:
        if other._manifest.digest != first._manifest.digest:
            try:
                first._manifest.require(other._manifest, first.path)
            except TreeMemoryMismatchError as error:
                raise TreeMemoryMismatchError(
                    f"{str(other.path)!r} cannot be a part beside {str(first.path)!r}: {error}"
                ) from error
    fitted = [one for one in memories if codec_hash(one)] or [first]
    if first._manifest.settings.vectors == "compact" and not codec_hash(fitted[0]):
        if encoder is not None:
            first._use(encoder)
        _ = first._working  # all are empty: gives it a codec
    codec = codec_hash(fitted[0])
    for other in memories:
        if not codec_hash(other) and not len(other):
            maintenance.shares_codecs(fitted[0]._database, other._database)
        if codec_hash(other) != codec:
            raise TreeMemoryMismatchError(
                f"{str(other.path)!r} cannot be a part beside {str(fitted[0].path)!r}: its codec "
                "is another, so that search vectors do not compare. Start parts from one empty "
                f"memory (export(path, [])), or add its documents to a new part"
            )
    for _, what in doubled(memories):
        raise InputError(f"{what}; delete one of them, then try again")
    return codec


def require_once(folders: Sequence[str]) -> None:
    """Refuse a part that is given twice.

    Raises
    ------
    InputError
    """
    for number, folder in enumerate(folders):
        if folder in folders[:number]:
            raise InputError(f"the part {folder!r} is given twice; name each part once")


def doubled(memories: Sequence[TreeMemory]) -> Iterator[tuple[str, str]]:
    """Yield ids that several memories hold, and where."""
    seen: dict[str, TreeMemory] = {}
    for memory in memories:
        with memory._database.read() as connection:
            ids = tables.places_of_documents(connection)
        for id in ids:
            if id in seen:
                both = f"{str(seen[id].path)!r} and {str(memory.path)!r}"
                yield id, f"the parts {both} both hold a document {id!r}"
            seen.setdefault(id, memory)


def codec_hash(memory: TreeMemory) -> str:
    """A hash of the codec of a memory's search vectors; "" without one."""
    with memory._database.read() as connection:
        rows = connection.execute(
            "SELECT name, shape, data FROM codecs WHERE made_by = ? ORDER BY name",
            (memory._manifest.digest,),
        ).fetchall()
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update(repr(row).encode())
    return digest.hexdigest() if rows else ""
