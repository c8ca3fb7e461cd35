"""Sections of documents as documents: what `section=` lets a question read.

A part shares the text's search vectors and has trees of its own, so that no passage reaches beyond
its section. Its KV is encoded when a question needs it; what a reader says of it is kept with the
whole document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from sharedllm.config import TreeConfig
from sharedllm.encoding.document import Document, NodeCache
from sharedllm.text.outline import Section, absent_section, sections_named
from sharedllm.text.tokens import Tokens
from sharedllm.text.tree import cut, grow_trees

NODE_CACHE_BYTES = 64 << 20


def in_sections(documents: Sequence[Document], wanted: str, tree: TreeConfig) -> list[Document]:
    """Return the sections of `documents` that `wanted` names, each as a document.

    Documents without such a section are left out; of a part of a long document, what lies in the
    section remains.

    Raises
    ------
    SectionError
        If no document has such a section.
    """
    found = [part for one in documents for part in parts_in(one, wanted, tree)]
    if not found:
        raise absent_section(wanted, [(one.title, one.outline) for one in documents])
    return found


def parts_in(document: Document, wanted: str, tree: TreeConfig) -> list[Document]:
    """Return what of `document` lies in the sections that `wanted` names, each as a document."""
    sections = sections_named(document.outline, wanted)
    parts = (part_of(document, section, tree) for section in sections)
    return [part for part in parts if part is not None]


def part_of(document: Document, section: Section, tree: TreeConfig) -> Document | None:
    """Return what of `document` lies in `section`, as a document; None if that is nothing."""
    begin = max(section.start - document.offset, 0)
    end = min(section.end - document.offset, len(document.text))
    if begin >= end:
        return None
    spans = document.tokens.spans
    first = int(np.searchsorted(spans[:, 1], begin, side="right"))
    last = int(np.searchsorted(spans[:, 0], end, side="left"))
    if first >= last:
        return None
    return document.derived(
        ("section", begin, end, tree, document.title, document.source),
        lambda: _make(document, (begin, end), (first, last), tree),
    )


def _make(
    document: Document, place: tuple[int, int], own: tuple[int, int], tree: TreeConfig
) -> Document:
    """Cut characters `place`, which are the tokens `own`, out of `document`."""
    (begin, end), (first, last) = place, own
    spans = np.clip(document.tokens.spans[first:last] - np.int32(begin), 0, end - begin)
    vectors = document.vectors
    return Document(
        id=document.id,
        title=document.title,
        source=document.source,
        text=document.text[begin:end],
        tokens=Tokens(ids=document.tokens.ids[first:last], spans=spans.astype(np.int32)),
        forest=grow_trees(cut(last - first, tree.chunk), tree),
        vectors=vectors[first:last] if isinstance(vectors, Tensor) else vectors.part(first, last),
        nodes=_PartNodes(document.nodes, first),
        made_by=document.made_by,
        offset=document.offset + begin,
        whole_characters=document.characters,
        pages=document.pages,
        outline=document.outline,
        remember_s=document.remember_s * (last - first) / len(document),
    )


class _PartNodes(NodeCache):
    """Encoded nodes of a part; its notes are kept with those of the document.

    Parameters
    ----------
    whole : of the document
    first : the token of the document with which the part begins
    """

    def __init__(self, whole: NodeCache, first: int) -> None:
        super().__init__(NODE_CACHE_BYTES)
        self._whole, self._first = whole, first

    def note(self, key: bytes, start: int) -> str | None:
        return self._whole.note(key, self._first + start)

    def keep_notes(self, notes: Mapping[tuple[bytes, int], str], *, required: bool = False) -> None:
        moved = {(key, self._first + start): said for (key, start), said in notes.items()}
        self._whole.keep_notes(moved, required=required)
