"""The words of a question about the whole -> what is asked of each part, and what is counted."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOLD = r"(?:mentioned|named|listed|quoted|cited|described|told of|introduced|spoken of|counted)"
_COUNT = re.compile(
    r"\bcount (?:up |together )?(?:how many|(?:all )?(?:the )?(?:number of )?)", re.I
)
_MANY = re.compile(
    r"\b(?:what is )?(?:how many|the (?:total )?number of)(?: of the| of these)?"
    r"(?: (?:different|distinct|unique|separate|various))?\b",
    re.IGNORECASE,
)
_TIMES = re.compile(r"\bhow (?:many times|often|frequently)\b", re.IGNORECASE)
_TOTAL = re.compile(r",? (?:in total|in all|altogether|overall|all in all)\b", re.IGNORECASE)
_SAID = re.compile(
    r"^\W*(?:is|was|does|do) (?:it|the \w+|the \w+ \w+) (?:said|told|mentioned|stated|written|"
    r"reported|say|tell|mention|state|report)(?: (?:in|by) the \w+)? that\b",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"[\"\u201c\u201e\u2018']([^\"\u201d\u2019']+)[\"\u201d\u2019']")
_WORD = re.compile(
    r"\bthe (?:word|words|term|phrase|name|expression|sentence)s? (?:of )?(?P<word>[\w'\u2019-]+)",
    re.IGNORECASE,
)
_MENTIONED = re.compile(
    r"\b(?:is|are|was|were) (?:the )?(?P<word>[\w'\u2019.-]+(?: [A-Z][\w'\u2019.-]*)*) "
    r"(?:mentioned|named)\b"
)
# which of two numbers the answer is: of two years, "older" is the smaller one
LARGER = frozenset(
    "higher taller larger bigger greater longer later heavier farther further wider deeper more "
    "most highest tallest largest biggest greatest longest latest heaviest farthest furthest "
    "costlier dearer richer younger".split()
)
SMALLER = frozenset(
    "lower shorter smaller fewer less earlier nearer closer cheaper lighter narrower least fewest "
    "lowest shortest smallest earliest nearest closest cheapest lightest poorer "
    "sooner first".split()
)
OLDER, YOUNGER = frozenset(["older", "oldest"]), frozenset(["younger", "youngest"])
_SIDES = (
    re.compile(r"(?:[,:;]|\bbetween)\s+(?P<a>[^,:;?]+?),? (?:or|and) (?P<b>[^,:;?]+?)\W*$", re.I),
    re.compile(
        r"^\W*(?:does|do|did|is|are|was|were|has|have|had|can|could|will|would) (?P<a>.+?) or "
        r"(?P<b>(?:the \w+ of )?[^?]+?) (?=(?:have|has|be|the|more|fewer|less|older|younger|larger|"
        r"smaller|higher|lower|earlier|later|longer|shorter|cheaper|nearer|taller|bigger|heavier|"
        r"come|came|cost|take|took|live|lived|born|leave|left)\b)",
        re.IGNORECASE,
    ),
    re.compile(
        r"\b(?:compare|contrast)\b (?P<a>[^,:;?]+?) (?:and|with|to|against) (?P<b>[^,:;?]+)", re.I
    ),
    re.compile(
        r"\b(?:differences?|similarit\w+|comparison)\b.*?\bbetween (?P<a>[^?]+?) and (?P<b>[^?]+)",
        re.I,
    ),
)
_SHARED = re.compile(r"^(?P<head>.*\b(?:of|at|in|by|from|on|between) )(?P<name>\S.*)$")
_LAST = 6  # words of a side, at most, that stand for it


@dataclass(frozen=True, kw_only=True, slots=True)
class Sides:
    """The two things that a question compares, and what is left of it without them."""

    first: str
    second: str
    rest: str


def item_question(question: str) -> str:
    """Turn a question for a number of things into one for the things themselves."""
    asked = _TOTAL.sub("", question.strip())
    if _TIMES.search(asked):
        return asked
    asked = _COUNT.sub("List all ", asked, count=1)
    return _MANY.sub(
        lambda match: "Which" if match.start() == 0 or match.group()[0].isupper() else "which",
        asked,
        count=1,
    )


def counts_events(question: str) -> bool:
    """Tell a question for how often something happens from one for a number of things."""
    return bool(_TIMES.search(question))


def event_of(question: str) -> str:
    """Return what happens, of a question for how often it does."""
    asked = _TOTAL.sub("", _TIMES.sub("", question.strip())).strip(" ?.")
    return _SAID.sub("", asked).strip(" ,:") or asked


def counted_words(question: str) -> str | None:
    """Return the words whose occurrences a question counts; None if it counts something else."""
    if not re.search(
        r"\b(?:times|often|frequently|occurrences?|mentions?|references?)\b", question, re.I
    ):
        return None
    about = re.search(
        r"\b(?:mention\w*|named|occur\w*|appear\w*|used?|word|term|phrase|references?)\b",
        question,
        re.IGNORECASE,
    )
    if not about:
        return None
    quoted = _QUOTED.search(question)
    if quoted:
        return quoted[1].strip()
    for rule in (_WORD, _MENTIONED):
        found = rule.search(question)
        if found and found["word"].lower() not in ("it", "this", "that"):
            return found["word"]
    return None


def sides_of(question: str) -> Sides | None:
    """Return the two things that a question compares by name; None if it names no two."""
    asked = " ".join(question.split()).strip(" ?.!")
    for rule in _SIDES:
        found = rule.search(asked)
        if not found:
            continue
        first, second = found["a"].strip(), found["b"].strip()
        if not first or not second or len(second.split()) > 2 * _LAST:
            continue
        rest = f"{asked[: found.start('a')]} {asked[found.end('b') :]}"
        shared = _SHARED.match(first)
        if shared and not _SHARED.match(second) and _is_name(second):
            second = f"{shared['head']}{second}"
        return Sides(first=first, second=second, rest=" ".join(rest.split()))
    return None


def _is_name(text: str) -> bool:
    return text[:1].isupper() or text[:1].isdigit()


def wanted(question: str, numbers: tuple[float, float]) -> int | None:
    """Return 0 or 1 for the number that the answer is; None where the words do not say."""
    said = set(re.findall(r"[a-z]+", question.lower()))
    if numbers[0] == numbers[1]:
        return None
    years = all(1000 <= number <= 2100 and number == int(number) for number in numbers)
    larger = bool(
        said & (LARGER | (frozenset() if years else OLDER) | (YOUNGER if years else set()))
    )
    smaller = bool(said & (SMALLER | (OLDER if years else set())))
    if not years and said & YOUNGER:
        larger, smaller = False, True
    if larger == smaller:
        return None
    return (max if larger else min)((0, 1), key=lambda index: numbers[index])
