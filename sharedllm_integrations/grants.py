"""Tickets: what a retriever returned, granted to the prompt that it was returned for.

A framework that hands prompts on as plain text has no room beside them for the handles that a
request may read. So a retriever puts a ticket into the prompt, a random name of one document for
one retrieval, spelled as a bare handle. Nobody can guess one, and a handle that somebody types is
not one, so that only what a retriever returned is read without its text. Tickets live as long as
the process, the oldest dropped beyond a limit.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass

from sharedllm_integrations.handles import MARK, opening
from sharedllm_integrations.turns import Given, Turn

MOST = 100_000
MOST_CHARACTERS = 1 << 28  # of texts that tickets hold
_tickets: OrderedDict[str, Ticket] = OrderedDict()
_lock = threading.Lock()
_held = 0


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a ticket is for.

    Attributes
    ----------
    tenant : str
    handle : str
        Of a document that a memory holds; "" where `given` is it.
    given : Given or None
        A text that no memory holds.
    """

    tenant: str
    handle: str = ""
    given: Given | None = None

    @property
    def characters(self) -> int:
        """Characters it keeps alive."""
        return len(self.given.text) if self.given else 0


def ticket(tenant: str, document: str | Given) -> str:
    """A new ticket's name.

    Parameters
    ----------
    document : the handle of a document that a memory holds, or a text with its title
    """
    global _held
    if isinstance(document, Given):
        made = Ticket(tenant, given=document)
    else:
        made = Ticket(tenant, handle=document)
    name = secrets.token_hex(16)
    with _lock:
        _tickets[name] = made
        _held += made.characters
        while len(_tickets) > 1 and (len(_tickets) > MOST or _held > MOST_CHARACTERS):
            _held -= _tickets.popitem(last=False)[1].characters
    return name


def is_valid(name: str, tenant: str) -> bool:
    """Whether the ticket `name` still grants something to `tenant`."""
    return _found(name, tenant) is not None


def redeemed(turn: Turn, tenant: str) -> tuple[Turn, set[str]]:
    """`turn` with documents in the places of tickets, and the handles that these grant."""
    parts: list[str | Given] = []
    granted: set[str] = set()
    for part in turn.parts:
        if isinstance(part, Given) or turn.role == "assistant":
            parts.append(part)  # what a model wrote grants nothing
            continue
        plain, at = "", 0
        for mark in MARK.finditer(part):
            held = None if mark["close"] else _found(mark["id"], tenant)
            if held is None:
                continue
            plain += part[at : mark.start()]
            at = mark.end()
            if held.given is None:
                granted.add(held.handle)
                plain += opening(held.handle)
            else:
                parts += [plain] * bool(plain) + [held.given]
                plain = ""
        plain += part[at:]
        parts += [plain] * bool(plain)
    return Turn(role=turn.role, parts=tuple(parts)), granted


def ids_in(given: str) -> list[str]:
    """The ids that a grant names: those of the marks in it, or itself."""
    return [mark["id"] for mark in MARK.finditer(given)] or [given]


def _found(name: str, tenant: str) -> Ticket | None:
    with _lock:
        held = _tickets.get(name)
    return held if held is not None and held.tenant == tenant else None
