"""Chat turns as the adapters hand them over, before documents are found in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """A text that its sender declares to be a document.

    Attributes
    ----------
    text, title, source : str
    """

    text: str
    title: str = ""
    source: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One message.

    Attributes
    ----------
    role : str
    parts : tuple of str and Given
    """

    role: Role
    parts: tuple[str | Given, ...]


def merged(turns: list[Turn]) -> list[Turn]:
    """`turns` with neighbours of one role joined: chat formats want roles to alternate."""
    out: list[Turn] = []
    for turn in turns:
        if out and out[-1].role == turn.role and turn.role != "tool":
            out[-1] = Turn(role=turn.role, parts=(*out[-1].parts, "\n\n", *turn.parts))
        else:
            out.append(turn)
    return out
