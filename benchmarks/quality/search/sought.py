"""What is searched for: questions with the places of their evidence, and the documents around."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass

from sharedllm import MemoryDocument
from sharedllm.generation.prompt import Question

Place = tuple[str, int, int]  # a document's id, characters [start, end)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sought:
    """One question.

    Attributes
    ----------
    kind : str
        A row of the table.
    question : str or chat messages
    evidence : tuple of tuple of Place
        Statements that are needed; any one of its places gives a statement.
    answers : tuple of str
        What is right: any one of them, or all where several statements are asked for. Empty where
        no short answer can be told to be right.
    """

    kind: str
    question: Question
    evidence: tuple[tuple[Place, ...], ...]
    answers: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return f"{zlib.crc32(repr((self.question, self.evidence)).encode()):08x}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Collection:
    """Documents that are searched together, and questions about them."""

    name: str
    documents: tuple[MemoryDocument, ...]
    sought: tuple[Sought, ...]

    @property
    def key(self) -> str:
        """Name of the folder that keeps its encodings: another text is another folder."""
        digest = hashlib.sha256()
        for document in self.documents:
            digest.update(f"{document.id}\0{document.title}\0{document.text}\0".encode())
        return f"{self.name}-{digest.hexdigest()[:10]}"


def document(name: str, text: str, title: str = "") -> MemoryDocument:
    return MemoryDocument(id=name, text=text, title=title or name, source=f"{name}.txt")
