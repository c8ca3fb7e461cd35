"""RULER's retrieval tasks (arXiv:2404.06654): needles in noise, in text, among needles; two hops.

Prompts, needles and counts are RULER's own. Where RULER fills with essays, the filler is the
user's; sentences are found by their punctuation instead of with nltk. Two hops, where one needle
names what another one is about, are not RULER's.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benchmarks.quality.ruler import words
from sharedllm.evaluation.filler import SENTENCE_END

TEMPLATE = (
    "Some special magic {kind} are hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {kind} afterwards.\n",
    "\nWhat are all the special magic {kind} for {query} mentioned in the provided text?",
    "The special magic {kind} for {query} mentioned in the provided text are",
)
NEEDLE = "One of the special magic {kind} for {key} is: {value}."
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
NEW_TOKENS = 128
DEPTHS = 40
KEEPERS = 4  # chains, of which one is asked for
FIRST, SECOND = "The keeper of {place} is {keeper}.", "The secret number of {keeper} is {value}."
TWO_HOPS = (
    "Some facts about keepers are hidden within the following text. Make sure to memorize them. "
    "I will quiz you about one of them afterwards.\n",
    "\nWhat is the secret number of the keeper of {place} mentioned in the provided text?",
    "The secret number of the keeper of {place} mentioned in the provided text is",
)

Kind = Literal["words", "numbers", "uuids"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Needles:
    """A task of the needle family.

    Attributes
    ----------
    haystack : "noise", "essay" or "needles"
    keys, values : what they are made of
    n_keys, n_values, n_queries : int
        Needles' keys, values of each key, keys that are asked for.
    """

    haystack: Literal["noise", "essay", "needles"]
    keys: Kind = "words"
    values: Kind = "numbers"
    n_keys: int = 1
    n_values: int = 1
    n_queries: int = 1


TASKS: dict[str, Needles] = {
    "niah_single_1": Needles(haystack="noise"),
    "niah_single_2": Needles(haystack="essay"),
    "niah_single_3": Needles(haystack="essay", values="uuids"),
    "niah_multikey_1": Needles(haystack="essay", n_keys=4),
    "niah_multikey_2": Needles(haystack="needles"),
    "niah_multikey_3": Needles(haystack="needles", keys="uuids", values="uuids"),
    "niah_multivalue": Needles(haystack="essay", n_values=4),
    "niah_multiquery": Needles(haystack="essay", n_keys=4, n_queries=4),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A task's document of a chosen size, with the prompt around it and the answers."""

    before: str
    text: str
    after: str
    prefix: str
    answers: tuple[str, ...]


Build = Callable[[int], Sample]  # size of the haystack in its own units -> sample


class Drawn:
    """Draws keys and values that do not repeat within one sample."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._used: set[str] = set()

    def __call__(self, kind: Kind) -> str:
        while True:
            made = self._one(kind)
            if made not in self._used:
                self._used.add(made)
                return made

    def _one(self, kind: Kind) -> str:
        if kind == "numbers":
            return str(self._rng.randint(10**6, 10**7 - 1))
        if kind == "words":
            return words.compound(self._rng.randrange(words.compounds()))
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))


def builder(task: Needles, seed: int, essay: list[str], share: float) -> Build:
    """A function from the size of the haystack (words, or sentences) to a sample.

    Parameters
    ----------
    essay : words of the filler; unused for the other haystacks
    share : where the first needle that is asked for stands, as a share of the document
    """

    def build(size: int) -> Sample:
        rng = random.Random(seed)
        draw = Drawn(rng)
        kind = task.values
        keys = [draw(task.keys) for _ in range(task.n_keys)]
        values = {key: [draw(task.values) for _ in range(task.n_values)] for key in keys}
        asked = rng.sample(keys, task.n_queries)
        needles = [
            NEEDLE.format(kind=kind, key=key, value=value)
            for key in (*asked, *(k for k in keys if k not in asked))
            for value in values[key]
        ]
        pieces, between = _haystack(task, size, essay, draw)
        text = between.join(mixed(pieces, needles, share, rng))
        query = ", ".join(asked[:-1]) + ", and " + asked[-1] if len(asked) > 1 else asked[0]
        parts = [part.format(kind=kind, query=query) for part in TEMPLATE]
        if task.n_queries * task.n_values == 1:
            parts = [_singular(part, kind) for part in parts]
        answers = tuple(value for key in asked for value in values[key])
        return Sample(before=parts[0], text=text, after=parts[1], prefix=parts[2], answers=answers)

    return build


def _singular(text: str, kind: Kind) -> str:
    """RULER's rewriting of its prompt for a single answer."""
    text = text.replace("Some", "A").replace("are all", "is").replace("are", "is")
    return text.replace(kind, kind[:-1])


def _haystack(task: Needles, size: int, essay: list[str], draw: Drawn) -> tuple[list[str], str]:
    """Sentences to put needles between, and what joins them."""
    if task.haystack == "noise":
        return [NOISE] * size, "\n"
    if task.haystack == "needles":
        made = [(draw(task.keys), draw(task.values)) for _ in range(size)]
        return [NEEDLE.format(kind=task.values, key=k, value=v) for k, v in made], "\n"
    return essay_of(size, essay), " "


def essay_of(size: int, essay: list[str]) -> list[str]:
    """The sentences of the first `size` words, which are repeated where they are too few."""
    repeats = -(-size // len(essay))
    return SENTENCE_END.split(" ".join((essay * repeats)[:size]).strip())


def mixed(pieces: list[str], needles: list[str], share: float, rng: random.Random) -> list[str]:
    """The needles between the pieces: the first at `share`, the others at RULER's depths."""
    depths = [share, *(d / (DEPTHS - 1) for d in rng.sample(range(DEPTHS), len(needles) - 1))]
    places = [round(depth * len(pieces)) for depth in depths]
    out: list[str] = []
    last = 0
    for place, needle in sorted(zip(places, needles, strict=True)):
        out += [*pieces[last:place], needle]
        last = place
    return [*out, *pieces[last:]]


def two_hop(seed: int, essay: list[str], share: float) -> Build:
    """A function from the number of the filler's words to a sample.

    Parameters
    ----------
    share : where the fact stands that the question names, as a share of the document
    """

    def build(size: int) -> Sample:
        rng = random.Random(seed)
        draw = Drawn(rng)
        chains = [(draw("words"), draw("words"), draw("numbers")) for _ in range(KEEPERS)]
        firsts = [FIRST.format(place=p, keeper=k) for p, k, _ in chains]
        seconds = [SECOND.format(keeper=k, value=v) for _, k, v in chains]
        text = " ".join(mixed(essay_of(size, essay), [*firsts, *seconds], share, rng))
        place, _, value = chains[0]
        before, after, prefix = (part.format(place=place) for part in TWO_HOPS)
        return Sample(before=before, text=text, after=after, prefix=prefix, answers=(value,))

    return build
