"""RULER's tracing and aggregation tasks: variable tracking, common and frequent words."""

from __future__ import annotations

import itertools
import random
import string

import numpy as np

from benchmarks.quality.ruler import words
from benchmarks.quality.ruler.needles import NOISE, Build, Sample

HOPS = 4
TRACKING = (
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n",
    "\nQuestion: Find all variables that are assigned the value {query} in the text above.",
    # the misspelling is RULER's
    "Answer: According to the chain(s) of variable assignment in the text above, {n} variables "
    "are assgined the value {query}, they are: ",
)
EXAMPLE_NOISES = 10
COMMON = (
    "Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often.\n",
    "\nQuestion: What are the 10 most common words in the above list?",
    "Answer: The top 10 words that appear most often in the list are:",
)
COMMON_WORDS = 10
SHORT = 4096  # below, RULER's lists repeat their words less often
FREQUENT = (
    "Read the following coded text and track the frequency of each coded word. Find the three "
    "most frequently appeared coded words. ",
    "\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the "
    "three most frequently appeared words in the above coded text?",
    "Answer: According to the coded text above, the three most frequently appeared words are:",
)
CODED_LETTERS, CODED_WORDS, ALPHA = 6, 2000, 2.0
NEW_TOKENS = {"vt": 30, "cwe": 120, "fwe": 50}


def tracking(seed: int) -> Build:
    """One chain of five variables in noise, after a solved example (RULER's one shot)."""

    def build(size: int) -> Sample:
        rng = random.Random(seed)
        names = _names(rng, 2 * (HOPS + 1))
        example, example_value = _chain(rng, names[: HOPS + 1], EXAMPLE_NOISES)
        text, value = _chain(rng, names[HOPS + 1 :], size)
        before, after, prefix = TRACKING
        shot = "".join(
            (
                before + example + after.format(query=example_value),
                " " + prefix.format(n=HOPS + 1, query=example_value),
                " ".join(names[: HOPS + 1]),
            )
        )
        return Sample(
            before=f"{shot}\n\n{before}",
            text=text,
            after=after.format(query=value),
            prefix=prefix.format(n=HOPS + 1, query=value),
            answers=tuple(names[HOPS + 1 :]),
        )

    return build


def _names(rng: random.Random, n: int) -> list[str]:
    """`n` different names of five letters."""
    names: dict[str, None] = {}
    while len(names) < n:
        names["".join(rng.choices(string.ascii_uppercase, k=5))] = None
    return list(names)


def _chain(rng: random.Random, names: list[str], noises: int) -> tuple[str, str]:
    """The assignments in order, at random places of the noise; and the value."""
    value = str(rng.randint(10000, 99999))
    chain = [f"VAR {names[0]} = {value}"]
    chain += [f"VAR {new} = VAR {old} " for old, new in itertools.pairwise(names)]
    sentences = [NOISE + "\n"] * noises
    places = sorted(rng.sample(range(max(noises, len(chain))), len(chain)))
    for done, (place, statement) in enumerate(zip(places, chain, strict=True)):
        sentences.insert(place + done, statement + "\n")
    return "".join(sentences).rstrip("\n"), value


def common_words(seed: int, length: int) -> Build:
    """A numbered list in which ten words stand 30 times and the others 3 times.

    Beyond the words that RULER's lists have, compounds of an adjective and a noun go on.
    """
    often, seldom = (30, 3) if length >= SHORT else (6, 1)
    example_size, example_often, example_seldom = (40, 10, 3) if length >= SHORT else (20, 3, 1)

    def build(size: int) -> Sample:
        rng = random.Random(seed)
        shown = _distinct(rng, example_size)
        example, answers = _numbered(rng, shown, example_often, example_seldom)
        text, right = _numbered(rng, _distinct(rng, size + COMMON_WORDS), often, seldom)
        before, after, prefix = COMMON
        solved = " ".join(f"{i}. {word}" for i, word in enumerate(answers, start=1))
        return Sample(
            before=f"{before}{example}{after} {prefix} {solved}\n{before}",
            text=text,
            after=after,
            prefix=prefix,
            answers=tuple(right),
        )

    return build


def _distinct(rng: random.Random, n: int) -> list[str]:
    """`n` different words."""
    simple = words.single()
    out = rng.sample(simple, len(simple))[:n]  # a larger list begins with the smaller one
    if n > len(simple):
        further = rng.sample(range(words.compounds()), n - len(simple))
        out += [words.compound(i) for i in further]
    return out


def _numbered(
    rng: random.Random, drawn: list[str], often: int, seldom: int
) -> tuple[str, list[str]]:
    """A list with numbers, and the common words in it."""
    common, uncommon = drawn[:COMMON_WORDS], drawn[COMMON_WORDS:]
    listed = common * often + uncommon * seldom
    rng.shuffle(listed)
    return " ".join(f"{i}. {word}" for i, word in enumerate(listed, start=1)), common


def frequent_words(seed: int) -> Build:
    """Made-up words with frequencies of a zeta distribution; the most frequent one is dots."""

    def build(size: int) -> Sample:
        rng = random.Random(seed)
        coded: set[str] = set()
        while len(coded) < CODED_WORDS:
            coded.add("".join(rng.choices(string.ascii_lowercase, k=CODED_LETTERS)))
        ranked = sorted(coded)
        rng.shuffle(ranked)
        ranked[0] = "..."
        shares = np.arange(1, CODED_WORDS + 1) ** -ALPHA
        zeta = np.pi**2 / 6  # of ALPHA
        counts = (size * shares / zeta).astype(int)
        text = [word for word, n in zip(ranked, counts, strict=True) for _ in range(n)]
        rng.shuffle(text)
        before, after, prefix = FREQUENT
        return Sample(
            before=before,
            text=" ".join(text),
            after=after,
            prefix=prefix,
            answers=tuple(ranked[1:4]),
        )

    return build
