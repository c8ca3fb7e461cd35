"""Answers, search results, documents and trees in a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table
from rich.text import Text

from sharedllm.display.picture import (
    Answered,
    Picture,
    Ranked,
    Span,
    Tree,
    colour,
    ranked,
)
from sharedllm.display.plain import (
    BEGINS,
    begins,
    counted,
    found_by,
    in_section,
    one_line,
    printable,
    scored,
)

CELLS = 32  # of the bar that shows where a passage lies
LONGEST_SECTION = 36  # characters of a section's title in front of a document's name
NARROW = 100  # columns below which that bar is half as long
FINE, COARSE, NOTHING = "█", "▒", "░"


@dataclass(frozen=True, slots=True)
class Results:
    """Strips of `pictures`, then a table of the passages, best first, each with its beginning."""

    pictures: Sequence[Picture]

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        for picture in self.pictures:
            if picture.passages or picture.coarse:
                yield heading(picture)
                yield strip(picture, options.max_width)
        cells = CELLS if options.max_width >= NARROW else CELLS // 2
        passages = ranked(self.pictures)
        rows = [
            (
                f"{one.rank}  {_where(one)}{one_line(one.picture.name)}",
                one.span,
                one.picture.characters,
                _beginning(one),
            )
            for one in passages
        ]
        if rows:
            yield ""
            yield passage_table(rows, cells)


@dataclass(frozen=True, slots=True)
class Beginning:
    """A document: its names, and how it begins."""

    picture: Picture

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        yield heading(self.picture)
        text = one_line("".join(e.text for e in self.picture.excerpts))
        yield Text(text[: 2 * BEGINS] + "…" * (len(text) > 2 * BEGINS), style="dim")


@dataclass(frozen=True, slots=True)
class Trees:
    """The first `trees` of `count`, a line a level, nodes drawn as wide as their spans."""

    trees: Sequence[Tree]
    count: int

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        for tree in self.trees:
            root = tree.nodes[0]
            yield Text(f"chunk {tree.chunk + 1}: tokens {root.start:,} to {root.end:,}")
            for level in range(max(node.level for node in tree.nodes) + 1):
                yield _level([n for n in tree.nodes if n.level == level], root, options.max_width)
        more = self.count - len(self.trees)
        if more:
            yield Text(f"and {counted(more, 'more tree')}", style="dim")


def heading(picture: Picture) -> Text:
    """A document's names and length on one line."""
    out = Text(one_line(picture.name), style="bold")
    source = f"{one_line(picture.source)}, " if picture.source else ""
    chunks = f", {counted(len(picture.chunks), 'chunk')}" if picture.chunks else ""
    out.append(f"  {source}{picture.characters:,} characters{chunks}", style="not bold dim")
    out.no_wrap, out.overflow = True, "ellipsis"
    return out


def strip(picture: Picture, cells: int) -> Text:
    """The document as a bar: full where a passage lies, half where the coarse level does."""
    lit: dict[int, tuple[str, int]] = {}
    for spans, mark in ((picture.coarse, COARSE), (picture.passages, FINE)):
        for span in spans:
            first, last = covered(span.start, span.end, picture.characters, cells)
            lit |= dict.fromkeys(range(first, last), (mark, span.level))
    out = Text(no_wrap=True)
    for cell in range(cells):
        mark, level = lit.get(cell, (NOTHING, -1))
        out.append(mark, style="dim" if level < 0 else colour(level))
    return out


def covered(start: int, end: int, length: int, cells: int) -> tuple[int, int]:
    """The cells [first, last) of `cells` that [`start`, `end`) of `length` takes; at least one."""
    first = min(start * cells // max(length, 1), cells - 1)
    return first, min(cells, max(first + 1, math.ceil(end * cells / max(length, 1))))


def position_bar(start: int, end: int, length: int, cells: int = CELLS) -> str:
    """Draw characters [`start`, `end`) of a text of `length` characters; at least one cell."""
    first, last = covered(start, end, length, cells)
    return NOTHING * first + FINE * (last - first) + NOTHING * (cells - last)


def passage_table(rows: Sequence[tuple[str, Span, int, Text]], cells: int = CELLS) -> Table:
    """A row for each passage: where it lies, and below it how it begins.

    Parameters
    ----------
    rows : name, span, characters of the whole text, beginning
    cells : length of the bar that shows where it lies
    """
    names, lies = Text("Evidence", style="bold"), Text("where it lies".ljust(cells))
    out: list[Any] = [_row(names, Text("characters"), lies, Text("score"))]
    for name, span, characters, beginning in rows:
        bar = Text(position_bar(span.start, span.end, characters, cells), style=colour(span.level))
        place = Text(f"{span.start:,}-{span.end:,}")
        out.append(Group(_row(Text(name), place, bar, Text(scored(span.score))), beginning))
    table = Table.grid(expand=True)
    for row in out:
        table.add_row(row)
    return table


def _beginning(one: Ranked) -> Text:
    """The beginning of a passage, the sentence that matches in bold; first, what else found it."""
    before, match, after = begins(one)
    by = f"{found_by(one.span)}: " if one.span.sought else ""
    parts = ((by, "italic"), (before, "dim"), (match, "bold"), (after, "dim"))
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _where(one: Ranked) -> str:
    """The section and the page of a passage, in front of its document's name."""
    section, page = in_section(one.span), one.picture.page(one.span)
    if len(section) > LONGEST_SECTION:
        section = section[: LONGEST_SECTION - 1].rstrip() + "\u2026"
    parts = [part for part in (section, f"p. {page:,}" if page else "") if part]
    return f"{', '.join(parts)}  " if parts else ""


def _row(name: Text, place: Text, bar: Text, score: Text) -> Table:
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    row.add_column(width=19, justify="right")
    row.add_column(width=bar.cell_len)
    row.add_column(width=6, justify="right")
    row.add_row(name, place, bar, score)
    return row


def _level(nodes: Sequence[Span], root: Span, width: int) -> Text:
    """One level of a tree: a bracket a node, its length in tokens inside."""
    out, length = Text(no_wrap=True), max(root.end - root.start, 1)
    for node in nodes:
        first, last = ((at - root.start) * width // length for at in (node.start, node.end))
        inside = max(0, last - first - 2)
        out.append(" " * (first - out.cell_len))
        out.append(f"[{f'{node.end - node.start:,}'[:inside].center(inside)}]", colour(node.level))
    return out


def answer(one: Answered) -> Group:
    """An answer, its evidence and what it took."""
    words = Text.assemble(
        *((printable(text), "underline yellow" if alone else "") for text, alone in one.pieces),
        *([(f"\n{one_line(one.warning)}", "yellow")] if one.warning else []),
        "\n",
    )
    return Group(words, Results(one.pictures), Text(one.summary, style="dim"))
