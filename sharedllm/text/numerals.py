"""Numbers of headings: "CHAPTER IV.", "3.2 Results", "Kapitel 7: Der Sturm", "Part the Second"."""

from __future__ import annotations

import re
from typing import NamedTuple

# The kinds of sections, and the words that headings call them by.
_CALLED = {
    "volume": "volume vol band tome tomo \u0442\u043e\u043c",
    "book": "book buch livre libro livro \u043a\u043d\u0438\u0433\u0430",
    "part": "part teil partie parte deel cz\u0119\u015b\u0107 \u0447\u0430\u0441\u0442\u044c",
    "title": "title titel titre t\u00edtulo titolo",
    "act": "act akt acte acto atto aufzug",
    "scene": "scene szene sc\u00e8ne escena scena auftritt",
    "chapter": "chapter chap kapitel chapitre cap\u00edtulo capitulo capitolo hoofdstuk "
    "rozdzia\u0142 \u0433\u043b\u0430\u0432\u0430 canto stave letter lecture sermon "
    "lesson lektion unit module",
    "section": "section sec abschnitt secci\u00f3n sezione sectie \u00a7",
    "article": "article art artikel art\u00edculo articolo artigo "
    "\u0441\u0442\u0430\u0442\u044c\u044f",
    "clause": "clause klausel cl\u00e1usula clausola",
    "appendix": "appendix annex anhang annexe anexo allegato schedule exhibit",
}
KINDS = {word: kind for kind, words in _CALLED.items() for word in words.split()}
_ONES = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
_TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50}
_ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
)
SPELLED = {word: n for n, word in enumerate(_ONES, start=1)} | _TENS
SPELLED |= {
    f"{ten} {one}": value + n
    for ten, value in _TENS.items()
    for n, one in enumerate(_ONES[:9], start=1)
}
SPELLED |= {word: n for n, word in enumerate(_ORDINALS, start=1)}
_CHINESE = {
    sign: n for n, sign in enumerate("\u96f6\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d")
}
_CHINESE |= {"\u3007": 0, "\u4e24": 2}
_CHINESE_KINDS = {
    **dict.fromkeys("\u7ae0\u56de", "chapter"),
    **dict.fromkeys("\u8282\u7bc0", "section"),
    **dict.fromkeys("\u90e8\u7bc7", "part"),
    "\u5377": "volume",
    **dict.fromkeys("\u6761\u689d", "article"),
}

_WORDS = "|".join(sorted((word.replace(" ", "[ -]") for word in SPELLED), key=len, reverse=True))
ROMAN = "(?=[MDCLXVI])M{0,3}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})"
NUMBER = rf"(?:\d{{1,4}}(?:\.\d{{1,3}}){{0,5}}|{ROMAN}|{ROMAN.lower()}|[A-Z]|(?i:{_WORDS}))"
KIND = "(?i:" + "|".join(sorted(map(re.escape, KINDS), key=len, reverse=True)) + ")"
_LABELLED = re.compile(
    rf"(?P<kind>{KIND})(?:\.?\s+|(?<=\u00a7))(?:(?i:the)\s+|(?i:no)\.?\s+)?(?P<number>{NUMBER})"
    r"(?![\w'\u2019])(?P<rest>.*)",
    re.DOTALL,
)
CHINESE = (
    rf"\u7b2c[ ]?(?P<chinese>[\d{''.join(_CHINESE)}\u5341\u767e]{{1,7}})[ ]?"
    rf"(?P<sign>[{''.join(_CHINESE_KINDS)}])"
)
_CHINESE_LABEL = re.compile(rf"{CHINESE}(?P<rest>.*)", re.DOTALL)
_BARE = re.compile(
    rf"(?P<number>\d{{1,4}}(?:\.\d{{1,3}}){{0,5}}|{ROMAN}|[A-Z](?=[.)]))"
    r"(?:[.):]+(?=\s|$)|(?=\s|$)|(?=\s*[\u2013\u2014-]))(?P<rest>.*)",
    re.DOTALL,
)
_AROUND = " \t\u3000.,:)]-\u2013\u2014"  # between a number and a title
_LETTERS = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}


class Label(NamedTuple):
    """The number that a heading begins with.

    Attributes
    ----------
    kind : "chapter", "part", ... or "" where the heading says none
    number : in digits, with dots between the levels, or a letter
    rest : the title after it
    """

    kind: str
    number: str
    rest: str


def label_of(title: str) -> Label | None:
    """The label of a heading; None if it has none."""
    text = title.strip()
    found = _LABELLED.match(text)
    if found:
        kind = KINDS[found["kind"].lower()]
        number = _value(found["number"], letters=kind == "appendix")
        return Label(kind, number, found["rest"].lstrip(_AROUND).rstrip())
    found = _CHINESE_LABEL.match(text)
    if found:
        kind = _CHINESE_KINDS[found["sign"]]
        return Label(kind, _chinese(found["chinese"]), found["rest"].lstrip(_AROUND).rstrip())
    found = _BARE.match(text)
    if found:
        return Label("", _value(found["number"]), found["rest"].lstrip(_AROUND).rstrip())
    return None


def number_of(title: str) -> str:
    """The number of a heading, in digits; "" if it has none."""
    label = label_of(title)
    if label is None or (not label.kind and _is_word(title)):
        return ""
    return label.number


def _is_word(title: str) -> bool:
    """True of "I am born", whose first letter is a word and no numeral."""
    return re.match(r"[IAV]\s+[a-z]", title.strip()) is not None


def _value(given: str, *, letters: bool = False) -> str:
    word = re.sub(r"[ -]+", " ", given.lower())
    if word in SPELLED:
        return str(SPELLED[word])
    if given[0].isdigit():
        return ".".join(str(int(part)) for part in given.split("."))
    one_letter = len(given) == 1 and (letters or given.upper() not in "IVX")
    return given.upper() if one_letter else str(_roman(given))


def _roman(given: str) -> int:
    values = [_LETTERS[letter] for letter in given.upper()]
    return sum(-value if value < max(values[at:]) else value for at, value in enumerate(values))


def roman(number: int) -> str:
    """A number from 1 on in Roman numerals."""
    pairs = (1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L")
    out = ""
    for value, letters in (*pairs, (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")):
        out += number // value * letters
        number %= value
    return out


def _chinese(given: str) -> str:
    if given.isdigit() and given.isascii():
        return str(int(given))
    total, digit = 0, 0
    for sign in given:
        if sign in "\u5341\u767e":
            total += (digit or 1) * (10 if sign == "\u5341" else 100)
            digit = 0
        else:
            digit = _CHINESE[sign] if sign in _CHINESE else int(sign)
    return str(total + digit)
