"""Turns -> what stands in them: running text, and documents by their handles."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from sharedllm_integrations import fences, known, pasted
from sharedllm_integrations.errors import HandleError
from sharedllm_integrations.handles import handle_id, neutral
from sharedllm_integrations.origins import KnownText
from sharedllm_integrations.report import Path, RefusedMark
from sharedllm_integrations.turns import Given, Turn

LONG_TEXT = 4000
ASSISTANT = "a handle in the assistant's words"


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A document in a prompt.

    Attributes
    ----------
    handle : str
    text : str or None
        None for a bare handle.
    path : str
        See :class:`~sharedllm_integrations.report.DocumentReport`.
    title, source : str
    """

    handle: str
    text: str | None
    path: Path
    title: str = ""
    source: str = ""


Parts = list[str | Found]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finder:
    """Finds the documents of one request.

    Attributes
    ----------
    tenant : str
    grants : collection of str
        Handles that may stand in the prompt without their texts.
    long_text : int or None
        Characters up to which text without marks stays running text; None is any length.
    known : function that gives the texts to look for in long text
    """

    tenant: str
    grants: Collection[str]
    long_text: int | None
    known: Callable[[], Sequence[KnownText]]

    def find(self, turns: Sequence[Turn]) -> tuple[list[tuple[str, Parts]], list[RefusedMark]]:
        """Role and parts of each turn, and the marks that were not taken for marks.

        Raises
        ------
        HandleError
            For a bare handle that was not granted.
        """
        refused: list[RefusedMark] = []
        out: list[tuple[str, Parts]] = []
        for turn in turns:
            parts: Parts = []
            for part in turn.parts:
                if isinstance(part, Given):
                    parts.append(self._given(part))
                else:
                    parts += self._in_text(part, turn.role, refused)
            out.append((turn.role, parts))
        return out, refused

    def _given(self, part: Given) -> Found:
        text = neutral(part.text)
        return Found(
            handle=handle_id(text, self.tenant),
            text=text,
            path="given",
            title=part.title,
            source=part.source,
        )

    def _in_text(self, text: str, role: str, refused: list[RefusedMark]) -> Iterator[str | Found]:
        plain = ""
        for piece in fences.parse(text, self.tenant):
            if isinstance(piece, str):
                plain += piece
            elif isinstance(piece, fences.Refused):
                refused.append(RefusedMark(id=piece.id, why=piece.why))
            elif isinstance(piece, fences.Bare) and role == "assistant":
                refused.append(RefusedMark(id=piece.id, why=ASSISTANT))
            elif isinstance(piece, fences.Fenced) and not piece.text.strip():
                continue
            else:
                yield from self._in_plain(plain)
                plain = ""
                yield self._marked(piece)
        yield from self._in_plain(plain)

    def _marked(self, piece: fences.Fenced | fences.Bare) -> Found:
        if isinstance(piece, fences.Fenced):
            return Found(handle=piece.id, text=piece.text, path="fence")
        if piece.id not in self.grants:
            raise HandleError(
                f"the prompt holds the handle {piece.id} without its text, and this request was "
                "not granted it. Pass the whole text between its marks (a text splitter may have "
                "cut it), or name the handle in `grants` if this request may read the document"
            )
        return Found(handle=piece.id, text=None, path="handle")

    def _in_plain(self, text: str) -> Iterator[str | Found]:
        if self.long_text is None or len(text) <= self.long_text:
            if text:
                yield text
            return
        for piece in known.find(text, self.known()):
            if isinstance(piece, known.Known):
                yield Found(handle=piece.handle, text=piece.text, path="known")
                continue
            for part in pasted.cut(piece, self.long_text):
                if isinstance(part, str):
                    yield part
                else:
                    yield Found(
                        handle=handle_id(part.text, self.tenant), text=part.text, path="pasted"
                    )
