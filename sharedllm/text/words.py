"""Words of a text in the one spelling in which search compares them.

Case, accents, width and hyphenation do not count: "Müller", "MULLER" and full-width letters are one
word. A word with marks in it ("GBS-65-146", "e-mail", "parse_config", "48,013") counts as a whole,
without its marks, and so do its parts. So does camelCase. Scripts written without spaces count
character by character.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from sharedllm.text.normalise import normalise

_ACCENTS = "\u0300-\u036f"
_HYPHENS = "-\u2010-\u2013\u2212"
_LETTERS = rf"[\w{_ACCENTS}]+"
# What may stand within a word, the weakest first: a path's, a name's, and a word's own marks.
_LEVELS = (
    re.compile(r"[/\\@#+&]"),
    re.compile(r"::|->|[.:]"),
    re.compile(rf"[{_HYPHENS}]\n[ \t]*|[{_HYPHENS}'\u2019]|_+"),
)
_MARK = rf"(?:::|->|[{_HYPHENS}]\n[ \t]*(?=[^\W\d_])|[{_HYPHENS}'\u2019./\\@#+&]|(?<=\d):(?=\d))"
_NUMBER = r"(?<![\w.,])\d{1,3}(?:,\d{3})+(?![\w,])"  # with its thousands; a row of CSV is none
_RUN = re.compile(rf"{_NUMBER}|{_LETTERS}(?:{_MARK}{_LETTERS})*")
_MARKS = re.compile(rf"{_MARK}|_+|,")
_CAMEL = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[^A-Za-z]+")
_IS_CAMEL = re.compile(r"[a-z][A-Z]|[A-Z]{2}[a-z]")
# Han, kana and Hangul have no spaces that a search could rely on
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af"
_UNSPACED = re.compile(rf"[{_IDEOGRAPHS}]|[^{_IDEOGRAPHS}]+")
_POINTS = re.compile(rf"[{_ACCENTS}\u0591-\u05c7\u064b-\u0652]")  # of Hebrew and Arabic, too
_UMLAUT = re.compile("([aouAOU])\u0308")
_LIGATURES = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "\u0131": "i"}
)
_BETWEEN_NUMBERS = re.compile(r"(?<=\d)\0(?=\d)")
POINT = "\u02d1"  # a letter, so that an index of words keeps it
_TAILS = frozenset("s t d m ll re ve".split())  # of "dog's", "don't", "we'll"

STOP = frozenset(
    (
        "a about after all also an and any are as at be been before being between both but by can "
        "could did do does doing during each for from had has have having he her here him his how "
        "i if in into is it its kind list many may me mentioned more most much my name no not of "
        "on one only or other our out over people person said she so some such tell than that the "
        "their them then there these they this those through to type under up use used was we were "
        "what when where which while who whom whose why will with would you your"
    ).split()
)


@dataclass(frozen=True, slots=True)
class Word:
    """One word as it stands in a text.

    Attributes
    ----------
    start : int
        Its first character.
    text : str
        As it stands there, normalised (:mod:`sharedllm.text.normalise`).
    """

    start: int
    text: str


def words(text: str) -> Iterator[Word]:
    """Yield the words of `text` in order; what has marks within is one word."""
    starts, found = words_at(text)
    return map(Word, starts, found)


def words_at(text: str) -> tuple[list[int], list[str]]:
    """Return the first character of each word, and the words, as :func:`words` has them."""
    read = normalise(text)
    starts, found = [], []
    for match in _RUN.finditer(read.text):
        starts.append(match.start())
        found.append(match.group())
    return (starts if read.starts is None else read.starts[starts].tolist()), found


@lru_cache(1 << 16)
def parts(word: str) -> tuple[str, ...]:
    """Return the parts of a word in the compared spelling; a plain word is its one part."""
    if word.isascii() and word.isalpha() and not _IS_CAMEL.search(word):
        return (word.lower(),)
    out: list[str] = []
    for piece in _MARKS.split(word):
        if _IS_CAMEL.search(piece):
            out += [_plain(part) for part in _CAMEL.findall(piece)]
        else:
            plain = _plain(piece)
            out += _UNSPACED.findall(plain) if not plain.isascii() else [plain]
    return tuple(part for part in out if part) or ("",)


@lru_cache(1 << 16)
def wholes(word: str) -> tuple[str, ...]:
    """Return what a word is called besides its parts: without its marks, with umlauts spelt out."""
    own = parts(word)
    if len(own) == 1 and word.isascii():
        return ()
    if (len(own) == 2 and own[1] in _TAILS) or _is_unspaced(own):
        return ()
    pieces, out = [word], list[str]()
    for level in _LEVELS:
        out += pieces
        pieces = [piece for whole in pieces for piece in level.split(whole) if piece]
    found = dict.fromkeys(_joined(piece) for piece in (*out, *pieces) if len(parts(piece)) > 1)
    if not word.isascii():
        spelt = _UMLAUT.sub(r"\1e", unicodedata.normalize("NFKD", word))
        found[_joined(spelt)] = None
    return tuple(whole for whole in found if whole not in own)


def is_exact(word: str) -> bool:
    """True for what must match as a whole: it holds a digit, or is an identifier or a code."""
    if any(c.isdigit() for c in word) or "_" in word.strip("_") or _IS_CAMEL.search(word):
        return True
    return len(parts(word)) > 1 and any(mark in word for mark in (".", "/", "::", "@", "#", "\\"))


def searchable(text: str) -> str:
    """Return all words of `text`, parts and wholes, as an index of words is to hold them."""
    return " ".join(" ".join((*parts(word.text), *wholes(word.text))) for word in words(text))


def _joined(word: str) -> str:
    """Join the parts of `word`; two numbers keep a mark between them, but for thousands."""
    if "," in word:
        return "".join(parts(word))
    return _BETWEEN_NUMBERS.sub(POINT, "\0".join(parts(word))).replace("\0", "")


def _is_unspaced(own: tuple[str, ...]) -> bool:
    return any(len(part) == 1 and not part.isascii() for part in own)


def _plain(word: str) -> str:
    """Return `word` without case, accents and width."""
    if word.isascii():
        return word.lower()
    bare = _POINTS.sub("", unicodedata.normalize("NFKD", word))
    return unicodedata.normalize("NFKC", bare).casefold().translate(_LIGATURES)
