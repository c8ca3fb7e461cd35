"""RTF -> text, as a word processor shows it.

Read here and not by striprtf, which leaves out footnotes, shows hidden text, and has expressions
that take the square of a line's length.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, replace

from sharedllm.errors import DocumentError
from sharedllm.text.loaders.flow import Flow
from sharedllm.text.loaders.source import Contents, Given

START = b"{\\rtf"
TOKEN = re.compile(
    r"\\([a-zA-Z]{1,32})(-?\d{1,10})? ?|\\'([0-9a-fA-F]{2})|\\(.)|([{}])|([^\\{}\r\n]+)|[\r\n]+|\\",
    re.DOTALL,
)
# Groups that hold no text of the document; every other group that begins with \* is one as well.
LEFT_OUT = frozenset(
    "fonttbl colortbl stylesheet info pict object header headerl headerr headerf footer footerl "
    "footerr footerf fldinst filetbl listtable listoverridetable revtbl rsidtbl generator "
    "themedata datastore xe tc annotation atnid atnauthor bkmkstart bkmkend pntext".split()
)
SHOWN = frozenset(("shptxt", "shpinst", "footnote", "nesttableprops", "pn"))  # though after \*
SIGNS = {
    "emdash": "\u2014", "endash": "\u2013", "bullet": "\u2022", "lquote": "\u2018",
    "rquote": "\u2019", "ldblquote": "\u201c", "rdblquote": "\u201d", "tab": " ",
    "emspace": " ", "enspace": " ", "qmspace": " ", "~": " ", "_": "-", "\\": "\\", "{": "{",
    "}": "}",
}  # fmt: skip
CHARSETS = {
    0: "cp1252", 77: "mac_roman", 128: "cp932", 129: "cp949", 130: "johab", 134: "gbk",
    136: "big5", 161: "cp1253", 162: "cp1254", 163: "cp1258", 177: "cp1255", 178: "cp1256",
    186: "cp1257", 204: "cp1251", 222: "cp874", 238: "cp1250", 254: "cp437", 255: "cp850",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Group:
    r"""The state inside of a pair of braces.

    Attributes
    ----------
    out : its text is not shown
    fonts : it lists the fonts
    skip : characters after ``\u`` that stand for it in old programs
    """

    out: bool = False
    hidden: bool = False
    deleted: bool = False
    fonts: bool = False
    skip: int = 1
    font: int = 0


def read_rtf(given: Given) -> Contents:
    """Return text and title of a file in the Rich Text Format.

    Raises
    ------
    DocumentError
    """
    if not given.data.lstrip().startswith(START):
        raise DocumentError(f"{given.source} is not an RTF file; save it again as RTF")
    reader = _Reader(given)
    for token in TOKEN.finditer(given.data.decode("latin-1")):
        reader.take(token)
    reader.flush()
    text = reader.flow.text()
    return Contents(text, "".join(reader.title), reader.flow.headings or None)


class _Reader:
    """Follows the control words of a file."""

    def __init__(self, given: Given) -> None:
        self.flow, self.title = Flow(given.source), list[str]()
        self._encoding = given.encoding or "cp1252"
        self._fonts: dict[int, str] = {}
        self._stack: list[_Group] = []
        self._now = _Group()
        self._bytes = bytearray()  # of characters with several bytes
        self._marked, self._skip, self._in_title, self._row = False, 0, 0, False
        self._high, self._level = "", 0

    def take(self, token: re.Match[str]) -> None:
        """Go on by one token."""
        word, number, code, sign, brace, text = token.groups()
        if code:
            self._byte(int(code, 16))
            return
        if text:
            self._text(text)
            return
        if brace:
            self.flush()
            self._brace(brace)
        elif word:
            self.flush()
            self._word(word, int(number) if number else None)
        elif sign:
            self._sign(sign)

    def flush(self) -> None:
        """Show the bytes that have come."""
        if not self._bytes:
            return
        codec = self._fonts.get(self._now.font, self._encoding)
        text = bytes(self._bytes).decode(codec, "replace")
        self._bytes.clear()
        self._show(text)

    def _brace(self, brace: str) -> None:
        self._skip = 0
        if brace == "{":
            self._stack.append(self._now)
            return
        self._now = self._stack.pop() if self._stack else _Group()
        if len(self._stack) < self._in_title:
            self._in_title = 0

    def _word(self, word: str, number: int | None) -> None:
        now, flow = self._now, self.flow
        marked, self._marked = self._marked, False
        if word == "u":
            self._unicode((number or 0) & 0xFFFF)
        elif word == "uc":
            self._now = replace(now, skip=max(0, number or 0))
        elif word in ("ansicpg", "f", "fcharset"):
            self._encode(word, number or 0)
        elif word in ("v", "deleted"):
            on = number != 0
            self._now = replace(now, hidden=on) if word == "v" else replace(now, deleted=on)
        elif word == "plain":
            self._now = replace(now, hidden=False, deleted=False, font=0)
        elif word == "title":
            self._in_title = len(self._stack)
        elif word in LEFT_OUT or (marked and word not in SHOWN):
            self._now = replace(now, out=True, fonts=word == "fonttbl")
        elif word == "bin":
            return  # its bytes are inside of a picture
        elif not now.out:
            self._layout(word, number)
            if word in SIGNS:
                flow.words(SIGNS[word])

    def _encode(self, word: str, number: int) -> None:
        if word == "f":
            self._now = replace(self._now, font=number)
        elif word == "fcharset" and self._now.fonts and _known(CHARSETS.get(number, "")):
            self._fonts[self._now.font] = CHARSETS[number]
        elif word == "ansicpg" and _known(f"cp{number}"):
            self._encoding = f"cp{number}"

    def _layout(self, word: str, number: int | None = None) -> None:
        flow = self.flow
        if word in ("pard", "outlinelevel"):  # which holds for all paragraphs until the next one
            level = -1 if word == "pard" or number is None else number
            self._level = level + 1 if 0 <= level < 9 else 0
            flow.open_heading(self._level)
        if word == "trowd" and not self._row:
            flow.open_table(gap=1)
            flow.open_cell()
            self._row = True
        elif word == "cell" and self._row:
            flow.close_cell()
            flow.open_cell()
        elif word == "row" and self._row:
            flow.drop_cell()
            flow.close_row()
            flow.close_table(gap=1)
            self._row = False
        elif word in ("par", "sect", "page", "footnote"):
            flow.close_heading()
            flow.part()
            flow.open_heading(self._level)
        elif word == "line":
            flow.line()

    def _sign(self, sign: str) -> None:
        self.flush()
        if sign == "*":
            self._marked = True
        elif sign in "\r\n":
            self._layout("par")
        elif sign in SIGNS:
            self._show(SIGNS[sign])

    def _byte(self, value: int) -> None:
        if self._skip:
            self._skip -= 1
        else:
            self._bytes.append(value)

    def _text(self, text: str) -> None:
        if self._skip:
            text, self._skip = text[self._skip :], max(0, self._skip - len(text))
        if any(c > "\x7f" for c in text):
            self._bytes += text.encode("latin-1")
            self.flush()
        elif self._bytes and text:  # the second byte of a character may be a plain letter
            self._bytes += text.encode("latin-1")
        else:
            self._show(text)

    def _unicode(self, unit: int) -> None:
        self._skip = self._now.skip
        if 0xD800 <= unit < 0xDC00:
            self._high = chr(unit)
            return
        pair = (self._high + chr(unit)).encode("utf-16", "surrogatepass")
        self._high = ""
        self._show(pair.decode("utf-16", "replace"))

    def _show(self, text: str) -> None:
        now = self._now
        if self._in_title:
            self.title.append(text)
        elif not (now.out or now.hidden or now.deleted):
            self.flow.words(text)


def _known(codec: str) -> bool:
    try:
        codecs.lookup(codec)
    except LookupError:
        return False
    return True
