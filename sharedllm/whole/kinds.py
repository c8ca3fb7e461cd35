"""Names in a list of persons, or of places -> those that the text does not treat as something else.

A small model that is asked for the characters of a part names its places and things, too, and does
not know better when it is asked about each. How the text uses a name tells more: one stands "in"
Holland, and Julia "says". A name is left out only where the text speaks against it. The rules are
made of English words (docs/experiments.md, 48).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sharedllm.encoding.document import Document
from sharedllm.whole.merging import APART, TITLES, Thing

Kind = Literal["persons", "places"]

OFTEN = 10  # uses of a name from which one of them should show a person
SHARE = 0.15  # of a name's uses that show a place, from which it is none of a person
SPACE = r"\s+"
NEAR = 32  # characters before and after a name that are looked at
_PERSONS = (
    r"characters?|persons?|people|men|women|children|protagonists?|antagonists?|hero(?:es)?|"
    r"heroines?|villains?|relatives|guests|suspects"
)
_PLACES = (
    r"places?|towns?|cities|city|villages?|countries|country|locations?|islands?|rivers?|streets?|"
    r"harbours?|counties|county"
)
_ASKED = re.compile(
    r"(?:^\W*|\b)(?:list|name|enumerate|give|find|show|identify|extract|collect|count|tell|which|"
    r"what|how many|who are|what are)\b(?: (?:me|us|all|every|each|the|of|names?|different|main|"
    r"important|major|minor|other|named|these|those|any|complete|list|a|an))*? "
    rf"(?:(?P<persons>{_PERSONS})|(?P<places>{_PLACES}))\b",
    re.IGNORECASE,
)
_TITLES = (
    TITLES
    | APART
    | frozenset(
        "lord father mother brother sister uncle aunt cousin king queen prince princess count "
        "countess duke duchess baron baroness saint".split()
    )
)
_PARTICLES = frozenset(
    "van von de der den da di du des del dos das la le al el bin ibn ten ter zu y d st".split()
)
_TITLE = re.compile(rf"\b(?:{'|'.join(sorted(_TITLES))})\.?\s+$", re.IGNORECASE)
_SAYS = (
    r"said|says|replied|replies|asked|asks|answered|cried|exclaimed|murmured|whispered|added|"
    r"returned|remarked|observed|inquired|enquired|repeated|continued|shouted|muttered"
)
_ACTS = re.compile(
    rf",?\s+(?:{_SAYS}|\w+(?:ed|eth)|thought|went|goes|came|comes|stood|sat|took|knew|felt|shook|"
    r"rose|saw|began|spoke|told|gave|made|had|has|did|does|would|could|must|might)\b"
)
_SPOKE = re.compile(rf"\b(?:{_SAYS}|[Pp]oor|[Dd]ear|[Mm]y|[Ll]ittle)\s+$")
_WHOM = re.compile(r"[!?]['\u201d\"]?\s+(?:he|she)\b")
_IS = re.compile(r"\s+(?:is|was|will|shall|can|may)\b")
_IN = re.compile(
    r"(?:\b(?:in|into|near|through|throughout|outside|inside|within|reached|leaving)|"
    r"(?<!ed )(?<!ing )(?<!look )(?<!looks )(?<!laugh )\bat)\s+"  # not "laughed at"
    r"(?P<the>the\s+(?:\w+\s+)?)?$",
    re.IGNORECASE,
)
_POSSESSIVE = re.compile(r"['\u2019](?:s\b|\s+[a-z])")
_PLACE = re.compile(  # none that is a surname, too, such as Hill, Park or Lane
    r"\b(?:castle|street|road|avenue|hotel|inn|chapel|abbey|island|county|palace|station|harbour|"
    r"museum|university|gardens)$",
    re.IGNORECASE,
)
_RUNS_ON = re.compile(r",?\s[a-z][^\n]{18,}")
_BEGINS = re.compile(r"(?:^|[.?!:\n\u201c\u201d\"])[\s'\u2018\"\u201c(]*$")


@dataclass(slots=True)
class Uses:
    """Counts of how texts use a name."""

    all: int = 0
    opens: int = 0  # as the first word of a sentence that runs on, but before "is"
    titled: int = 0
    acts: int = 0
    owns: int = 0
    inside: int = 0  # after "in", "at", "near"
    inside_the: int = 0  # after "in the"

    @property
    def of_a_person(self) -> int:
        """Uses that speak for a person."""
        return self.titled + self.acts + self.owns


def kind_of_things(question: str) -> Kind | None:
    """Return of what kind a question lists things, where its words say persons or places."""
    found = _ASKED.search(question)
    if found is None:
        return None  # also of "Who signed it?": parties and firms may
    return "persons" if found["persons"] else "places"


def of_kind(things: Sequence[Thing], documents: Sequence[Document], question: str) -> list[Thing]:
    """Leave out those that the texts treat as something else than the question lists."""
    kind = kind_of_things(question)
    if kind is None:
        return list(things)
    fits = _is_person if kind == "persons" else _is_place
    return [
        thing
        for thing in things
        if thing.text == thing.text.lower()  # "the fox"; names of scripts without capitals
        or (not _is_phrase(thing.text) and fits(thing.text, uses_of(thing.text, documents)))
    ]


def _is_phrase(name: str) -> bool:
    """Tell words around a name ("left in Mrs. Lund's house") from a name with a particle."""
    first = name.split()[0].partition("-")[0]
    return first.islower() and first not in _PARTICLES


def uses_of(name: str, documents: Sequence[Document]) -> Uses:
    """Count how texts use a name."""
    uses = Uses()
    words = [re.escape(word) for word in name.split()]
    pattern = re.compile(rf"(?<![\w-])(?:{SPACE.join(words)})(?![\w-])")
    titled = name.split()[0].strip(".").lower() in _TITLES and len(words) > 1
    for document in documents:
        for match in pattern.finditer(document.text):
            before = document.text[max(0, match.start() - NEAR) : match.start()]
            after = document.text[match.end() : match.end() + NEAR]
            owns = bool(_POSSESSIVE.match(after))
            inside = _IN.search(before)
            uses.all += 1
            uses.titled += titled or bool(_TITLE.search(before))
            runs_on = _RUNS_ON.match(after) and not _IS.match(after)
            uses.opens += bool(runs_on and _BEGINS.search(before))
            uses.acts += bool(_ACTS.match(after) or _SPOKE.search(before) or _WHOM.match(after))
            uses.owns += owns
            if inside and not owns:
                uses.inside += not inside["the"]
                uses.inside_the += bool(inside["the"])
    return uses


def _is_person(name: str, uses: Uses) -> bool:
    """False where a text stands "in" the name, or never treats it as one who does something."""
    if not uses.all or uses.titled:
        return True
    if _PLACE.search(name):
        return False
    one_word = len(name.split()) == 1
    if uses.inside > uses.owns and uses.inside >= SHARE * uses.all:
        return False
    if one_word and not uses.acts and (uses.opens == uses.all or name.lower() in _TITLES):
        return False  # "Scythes, hoes and rakes lay about"; "Lord!"
    return uses.all < OFTEN or uses.of_a_person > 0


def _is_place(name: str, uses: Uses) -> bool:
    """False of a name with a title, or of one who acts and in whom nobody is."""
    inside = uses.inside + uses.inside_the
    if not uses.all or inside >= SHARE * uses.all or _PLACE.search(name):
        return True
    if uses.titled > uses.all / 2 or (uses.acts >= SHARE * uses.all and uses.acts > inside):
        return False
    return len(name.split()) > 1 or uses.opens < uses.all
