"""Documents -> the parts of a memory that hold them, and those that take new ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sharedllm.memory import tables
from sharedllm.memory.documents import MemoryDocument
from sharedllm.memory.tree_memory import TreeMemory
from sharedllm.memory.word_index import sizes


@dataclass(frozen=True, slots=True, eq=False)
class Present:
    """A part that can be used, with its number in the list."""

    number: int
    memory: TreeMemory


def owners_of(there: Sequence[Present], ids: Sequence[str]) -> dict[str, int]:
    """The place in `there` of the part that holds each of `ids`; those that none holds are left."""
    out: dict[str, int] = {}
    for place, part in enumerate(there):
        with part.memory._database.read() as connection:
            held = tables.held_documents(connection, dict.fromkeys(ids))
        out = dict.fromkeys(held, place) | out
    return out


def stretches(
    given: Sequence[MemoryDocument], owners: Mapping[str, int], share: int
) -> Iterator[tuple[int | None, Sequence[MemoryDocument]]]:
    """Yield neighbouring documents of one owner; new ones (None) of about `share` characters.

    `owners` may grow meanwhile.
    """
    first = 0
    while first < len(given):
        owner, last, size = owners.get(given[first].id), first, 0
        while last < len(given) and owners.get(given[last].id) == owner:
            if owner is None and last > first and size >= share:
                break
            size += len(given[last].text)
            last += 1
        yield owner, given[first:last]
        first = last


def smallest(there: Sequence[Present]) -> Present:
    """The part with the fewest words."""

    def words(part: Present) -> int:
        with part.memory._database.read() as connection:
            return sizes(connection)[1]

    return min(there, key=words)


def number_after_all(target: Present, there: Sequence[Present]) -> None:
    """Let the rows to come have higher numbers than those of all parts: the order of addition.

    That order decides between equal scores, and is that in which the whole is read.
    """
    last: dict[str, int] = {}
    for one in there:
        with one.memory._database.read() as connection:
            for name, row in tables.last_rows(connection).items():
                last[name] = max(row, last.get(name, 0))
    with target.memory._database.write() as connection:
        tables.number_after(connection, last)
