"""A conversation on disk: questions, answers and citations, written whole after every answer."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharedllm.errors import ConfigError

if TYPE_CHECKING:
    from sharedllm.generation.prompt import Message
    from sharedllm.search.citations import Citation

FILE = "chat.json"
FORM = 1  # of the file


@dataclass(frozen=True, slots=True)
class Turn:
    """A question with its answer and what that cites."""

    question: str
    answer: str
    citations: tuple[Citation, ...]


class Conversation:
    """The turns of a conversation, kept in a file.

    Attributes
    ----------
    path : Path
    turns : list of Turn
        The oldest first.
    """

    def __init__(self, path: Path, turns: Sequence[Turn] = ()) -> None:
        self.path, self.turns = path, list(turns)

    @classmethod
    def open(cls, path: Path) -> Conversation:
        """The conversation in a file; a new one where there is no file.

        Raises
        ------
        ConfigError
            If the file cannot be read, or holds something else.
        """
        try:
            return cls(path, _turns(json.loads(path.read_text("utf-8"))))
        except FileNotFoundError:
            return cls(path)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"the conversation in {str(path)!r} cannot be read ({error}); move it away, or "
                "begin another one with --new"
            ) from error

    @property
    def last(self) -> Turn | None:
        """The last turn, if there is one."""
        return self.turns[-1] if self.turns else None

    def messages(self, most: int) -> list[Message]:
        """The last `most` turns as chat messages."""
        return [
            {"role": role, "content": text}
            for turn in self.turns[len(self.turns) - most :]
            for role, text in (("user", turn.question), ("assistant", turn.answer))
        ]

    def add(self, turn: Turn) -> None:
        """Keep a turn, on disk before this returns."""
        self.turns.append(turn)
        self._write()

    def clear(self) -> None:
        """Begin anew; the old turns are forgotten with the next answer."""
        self.turns.clear()

    def _write(self) -> None:
        """Replace the file whole.

        Raises
        ------
        ConfigError
            If it cannot be written.
        """
        told = {"form": FORM, "turns": [asdict(turn) for turn in self.turns]}
        name = ""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=".chat-")
            with os.fdopen(descriptor, "w", encoding="utf-8") as out:
                json.dump(told, out, ensure_ascii=False, indent=1)
                out.flush()
                os.fsync(out.fileno())
            Path(name).replace(self.path)
        except OSError as error:
            if name:
                Path(name).unlink(missing_ok=True)
            raise ConfigError(
                f"the conversation cannot be kept in {str(self.path)!r}: "
                f"{error.strerror or error}; make its folder writable"
            ) from error


def path_for(memory: str | None, paths: Sequence[str]) -> Path:
    """The file of a conversation: in its memory's folder, else in the user's data folder.

    There its name follows from the documents, so that it is found again from any folder.
    """
    if memory is not None:
        return Path(memory) / FILE
    named = "\n".join(sorted(str(Path(path).resolve()) for path in paths))
    digest = hashlib.sha256(named.encode("utf-8", "surrogatepass")).hexdigest()
    return data_folder() / "chats" / f"{digest[:16]}.json"


def data_folder() -> Path:
    """The folder of what users keep: $SHAREDLLM_DATA, else in the user's data folder."""
    given = os.environ.get("SHAREDLLM_DATA")
    if given:
        return Path(given)
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "sharedllm"


def _turns(held: Any) -> list[Turn]:
    from sharedllm.search.citations import Citation

    if held["form"] != FORM:
        raise ValueError(f"it has form {held['form']!r}, and this version reads {FORM}")
    found = [
        Turn(
            question=one["question"],
            answer=one["answer"],
            citations=tuple(Citation(**citation) for citation in one["citations"]),
        )
        for one in held["turns"]
    ]
    if not all(isinstance(text, str) for turn in found for text in (turn.question, turn.answer)):
        raise TypeError("a question or an answer is no text")
    return found
