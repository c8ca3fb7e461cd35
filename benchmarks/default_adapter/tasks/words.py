"""Tasks about the text itself: its most frequent words, and what it says word for word."""

from __future__ import annotations

import itertools
import random
import re

from benchmarks.default_adapter.tasks.names import ADJECTIVES, NOUNS, syllables
from sharedllm.training.examples import Example

COUNTED = (
    "What are the {n} most common words in the above list?",
    "Which {n} words appear most often in the list?",
)
CODED = (
    "Do not provide any explanation. Please ignore the dots '....'. What are the {n} most "
    "frequently appeared words in the above coded text?",
    "Which {n} coded words occur most frequently?",
)
NUMBERS = ("", "", "two", "three", "four", "five")


def words(rng: random.Random, filler: str) -> Example:
    """The most common words of a numbered list, or of a coded text (as in RULER)."""
    if rng.random() < 0.5:
        return _common(rng, len(filler))
    return _coded(rng, len(filler))


def _common(rng: random.Random, length: int) -> Example:
    """Few words stand often in a list and all others seldom."""
    n = rng.choice((3, 5, 10))
    pool = [f"{rng.choice(ADJECTIVES)}{rng.choice(('', '-'))}{rng.choice(NOUNS)}"]
    pool = list(dict.fromkeys([*rng.sample(ADJECTIVES, 40), *rng.sample(NOUNS, 40), *pool]))
    rng.shuffle(pool)
    common, rare = pool[:n], pool[n:]
    total = max(60, min(length, 12000) // 12)
    often, seldom = (30, 3) if total > 500 else (8, 2)
    most = max(1, (total - often * n) // seldom)
    while len(rare) < most:
        rare.append(syllables(rng))
    stated = common * often + list(dict.fromkeys(rare))[:most] * seldom
    rng.shuffle(stated)
    past = " ".join(f"{number}. {word}" for number, word in enumerate(stated, start=1))
    question = rng.choice(COUNTED).format(n=n)
    # by first appearance: any order would be right, but one must be learned
    answer = ", ".join(sorted(common, key=stated.index))
    return Example(kind="words", past=past, question=question, answer=answer)


def _coded(rng: random.Random, length: int) -> Example:
    """Made-up words of falling frequency among dots."""
    n = rng.choice((2, 3, 3, 3))
    total = max(80, min(length, 12000) // 8)
    vocabulary = list(dict.fromkeys(syllables(rng) for _ in range(max(12, total // 12))))
    stated: list[str] = []
    for rank, word in enumerate(vocabulary, start=1):
        share = 0.5 if rank <= n else 0.3
        stated += [word] * max(1, int(share * total / (rank + 1)))
        if rank > n and len(stated) > total:
            break
    stated += ["...."] * (len(stated) // 4)
    rng.shuffle(stated)
    question = rng.choice(CODED).format(n=NUMBERS[n])
    answer = ", ".join(vocabulary[:n])
    return Example(kind="words", past=" ".join(stated), question=question, answer=answer)


_SENTENCE = re.compile(r"[A-Z][^.!?\n]{40,180}[.!?](?= )")
QUOTING = (
    'Quote the sentence that follows "{first}"',
    'Which sentence comes directly after "{first}"?',
)


def quotation(rng: random.Random, filler: str) -> Example:
    """A sentence of the text, word for word: the one after another, or the one that has a word."""
    found = list(itertools.islice(_SENTENCE.finditer(filler, rng.randrange(len(filler))), 60))
    found = found or list(itertools.islice(_SENTENCE.finditer(filler), 60))
    pairs = [(a, b) for a, b in itertools.pairwise(found) if a.end() + 1 == b.start()]
    if pairs and rng.random() < 0.5:
        first, second = rng.choice(pairs)
        question = rng.choice(QUOTING).format(first=first.group())
        return _quoted(filler, question, second.group(), (first.start(), second.end()))
    rng.shuffle(found)
    for match in found[:8]:
        sentence = match.group()
        at = sentence.rfind(" ", 0, len(sentence) // 2)
        if at > 0 and filler.count(sentence[:at]) == 1:
            start = sentence[:at]
            ask = rng.choice(
                (
                    f'Quote the whole sentence that begins with "{start}".',
                    f'How does the text go on after "{start}"? Quote the full sentence.',
                )
            )
            return _quoted(filler, ask, sentence, match.span())
    return _planted(rng, filler)


def _quoted(filler: str, question: str, answer: str, span: tuple[int, int]) -> Example:
    return Example(
        kind="quotation", past=filler, question=question, answer=answer, evidence=(span,)
    )


def _planted(rng: random.Random, filler: str) -> Example:
    """For text without sentences: a line of made-up words under a heading."""
    heading = syllables(rng).title()
    line = " ".join(syllables(rng) for _ in range(rng.randint(5, 12)))
    past = f"{filler}\n\n{heading}: {line}\n"
    start = len(filler) + 2
    question = f"What stands after the heading {heading}? Quote it."
    return _quoted(past, question, line, (start, len(past) - 1))
