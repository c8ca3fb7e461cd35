"""Flow: words, blocks and tables of a document in reading order -> plain text, of bounded length.

The readers of formats with a layout (HTML, DOCX, PPTX, RTF) tell a Flow what comes next. Blocks
are parted by a blank line, lines by a line end, cells of a row by a bar; an empty cell stays empty,
so that the cells after it keep their columns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from sharedllm.errors import DocumentError
from sharedllm.text.outline import Heading

MOST_CHARACTERS = 64 << 20  # of a text; small files can unfold to more than fits into memory
MOST_COLUMNS = 1_000
LONGEST_ROW = 1_000  # characters that are put on one line; longer cells are blocks of a layout
DEEPEST_TABLE = 20  # tables within tables; cells further down are plain blocks
# Around a heading of level 1 to 9; what Unicode keeps free for such marks.
OPENS, CLOSES = "\ufdd1\ufdd2\ufdd3\ufdd4\ufdd5\ufdd6\ufdd7\ufdd8\ufdd9", "\ufdd0"
NUMBERS = "\ufdda"  # after the number of a heading that has one besides its text
MARKS = re.compile(f"[{OPENS}{CLOSES}{NUMBERS}]")
HEADING = re.compile(
    f"([^{OPENS}]*)([{OPENS}])(?:([^{CLOSES}{NUMBERS}]*){NUMBERS})?([^{CLOSES}]*){CLOSES}"
)
BAR = " | "
SPACES = re.compile(r"[ \t\r\n\f]+")
EMPTY_LINES = re.compile(r"\n{3,}")


class Measured:
    """Counts the characters of one text that is being made.

    Raises
    ------
    DocumentError
        From :meth:`add`, if there are more than `most`.
    """

    def __init__(self, source: str, most: int = MOST_CHARACTERS) -> None:
        self._source, self._most, self.size = source, most, 0

    def add(self, characters: int) -> None:
        """Count `characters` more."""
        self.size += characters
        if self.size > self._most:
            raise DocumentError(
                f"{self._source} unfolds to more than {self._most:,} characters; split it"
            )


@dataclass(slots=True)
class _Part:
    """A stretch of text with what has to come before its next word."""

    pieces: list[str] = field(default_factory=list)
    gap: int = 0  # line ends
    space: bool = False


@dataclass(slots=True)
class _Table:
    """A table that is open.

    Attributes
    ----------
    row : cells of the open row
    below : by column, rows that a cell of a row above still reaches into
    """

    row: list[tuple[str, int, int]] = field(default_factory=list)
    below: dict[int, int] = field(default_factory=dict)
    in_cell: bool = False
    span: tuple[int, int] = (1, 1)


class Flow:
    """Collects one text."""

    def __init__(self, source: str) -> None:
        self._measured = Measured(source)
        self._part = _Part()
        self._outer: list[_Part] = []
        self._tables: list[_Table | None] = []  # None: too deep to have rows
        self._level, self._number = 0, ""  # of the open heading
        self._in_heading = False  # it has text
        self._marked = False  # some heading has
        self.headings: list[Heading] = []

    def words(self, text: str) -> None:
        """Add text in which white space only parts words."""
        if text.isspace() and "\xa0" not in text:
            self._part.space = True
            return
        folded = SPACES.sub(" ", text)
        body = folded.strip(" ")
        if folded.startswith(" "):
            self._part.space = True
        if body:
            self.exact(body)
            self._part.space = folded.endswith(" ")

    def exact(self, text: str) -> None:
        """Add text as it stands."""
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        if not text.isascii():
            text = MARKS.sub("", text)
        if text:
            self._put(text)

    def _put(self, text: str) -> None:
        part = self._part
        if part.pieces:
            between = "\n" * part.gap or " " * part.space
            if between:
                part.pieces.append(between)
        part.gap, part.space = 0, False
        if self._level and not self._in_heading:
            number = f"{self._number}{NUMBERS}" if self._number else ""
            part.pieces.append(f"{OPENS[self._level - 1]}{number}")
            self._in_heading = self._marked = True
        part.pieces.append(text)
        self._measured.add(len(text) + 2)

    def _put_cells(self, text: str) -> None:
        """Add text of cells, which may hold marks of headings."""
        if text:
            self._put(text)

    def open_heading(self, level: int, number: str = "") -> None:
        """Begin a heading of level 1 to 9, which is a block of its own; it ends an open one.

        Level 0 is plain text.

        Parameters
        ----------
        number : in front of its title in the outline, where it is not in the text
        """
        self.close_heading()
        if level:
            self.part()
        self._level, self._number = level, MARKS.sub("", number)

    def close_heading(self) -> None:
        """End the open heading, if there is one."""
        if self._in_heading:
            self._part.pieces.append(CLOSES)
        if self._level:
            self.part()
        self._level, self._in_heading = 0, False

    def line(self) -> None:
        """End a line; two in a row leave an empty one."""
        self._part.gap = min(self._part.gap + 1, 2)

    def part(self, gap: int = 2) -> None:
        """Begin a new line (1) or block (2)."""
        self._part.gap = max(self._part.gap, gap)

    # -- tables --------------------------------------------------------------------------------

    def open_table(self, gap: int = 2) -> None:
        """Begin a table."""
        self.close_heading()
        self.part(gap)
        self._tables.append(_Table() if len(self._tables) < DEEPEST_TABLE else None)

    def open_cell(self, columns: int = 1, rows: int = 1) -> None:
        """Begin a cell of the open row, `columns` wide and `rows` high."""
        self.close_heading()
        table = self._tables[-1] if self._tables else None
        if table is None:
            self.part(1)
            return
        self.close_cell()
        table.in_cell, table.span = True, (columns, rows)
        self._outer.append(self._part)
        self._part = _Part()

    def widen(self, columns: int) -> None:
        """Let the open cell be `columns` wide, for formats that say so inside of it."""
        if self._tables and self._tables[-1] is not None:
            self._tables[-1].span = (columns, 1)

    def close_cell(self) -> None:
        """End the open cell, if there is one."""
        self.close_heading()
        table = self._tables[-1] if self._tables else None
        if table is None or not table.in_cell:
            return
        text = EMPTY_LINES.sub("\n\n", "".join(self._part.pieces)).strip()
        self._part = self._outer.pop()
        table.in_cell = False
        table.row.append((text, *table.span))

    def drop_cell(self) -> None:
        """End the open cell without counting it, for formats that end cells and begin none."""
        table = self._tables[-1] if self._tables else None
        if table is not None and table.in_cell:
            self.close_cell()
            table.row.pop()

    def close_row(self) -> None:
        """End the open row: its cells on one line, or one after the other where they are long."""
        table = self._tables[-1] if self._tables else None
        if table is None:
            self.part(1)
            return
        self.close_cell()
        given, table.row = table.row, []
        alone = len(given) == 1 and not table.below
        cells = _in_columns(given, table.below)
        texts = [text for text, _, _ in given]
        if alone or sum(map(len, texts)) > LONGEST_ROW:
            for text in texts:
                self.part(2 if "\n" in text else 1)
                self._put_cells(text)
            self.part(1)
            return
        if any(cells):
            self.part(1)
            self._put_cells(BAR.join(" ".join(cell.split()) for cell in cells).rstrip())
        self.part(1)

    def close_table(self, gap: int = 2) -> None:
        """End the table."""
        if not self._tables:
            return
        if self._tables[-1] is not None and (self._tables[-1].row or self._tables[-1].in_cell):
            self.close_row()
        self._tables.pop()
        self.part(gap)

    def text(self) -> str:
        """The whole text; :attr:`headings` are those in it, once it was asked for."""
        self.close_heading()
        while self._tables:
            self.close_table()
        marked = EMPTY_LINES.sub("\n\n", "".join(self._part.pieces)).strip("\n")
        return self._without_marks(marked) if self._marked else marked

    def _without_marks(self, marked: str) -> str:
        """Take the marks of headings out of the text, and note where these are."""
        pieces, at, self.headings = list[str](), 0, []
        for before, opened, number, title in HEADING.findall(f"{marked}{OPENS[0]}{CLOSES}"):
            pieces += [before, title]
            named = f"{number} {title}" if number else title
            self.headings.append(Heading(at + len(before), OPENS.index(opened) + 1, named))
            at += len(before) + len(title)
        self.headings.pop()  # the empty one that ends the text
        return "".join(pieces)


def _in_columns(given: list[tuple[str, int, int]], below: dict[int, int]) -> list[str]:
    """Put the cells of a row into their columns, empty where a cell from above or beside reaches.

    `below` is kept up to date for the next row.
    """
    out: list[str] = []
    left = iter(given)
    new: dict[int, int] = {}
    cell = next(left, None)
    while (cell is not None or len(out) in below) and len(out) < MOST_COLUMNS:
        if below.get(len(out), 0) > 0:
            out.append("")
            continue
        if cell is None:
            break
        text, columns, rows = cell
        for column in range(len(out), len(out) + min(columns, MOST_COLUMNS)):
            if rows > 1:
                new[column] = rows - 1
        out += [text, *[""] * (min(columns, MOST_COLUMNS) - 1)]
        cell = next(left, None)
    if cell is not None:  # wider than any table: without columns, but whole
        out += [cell[0], *(text for text, _, _ in left)]
    for column in list(below):
        below[column] -= 1
        if not below[column]:
            del below[column]
    below.update(new)
    return out
