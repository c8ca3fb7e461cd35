"""Two hops, which RULER lacks: one needle names whom another one is about."""

from __future__ import annotations

import random

from sharedllm.evaluation.needles import Build, Drawn, Sample, essay_of, mixed

KEEPERS = 4  # chains, of which one is asked for
FIRST, SECOND = "The keeper of {place} is {keeper}.", "The secret number of {keeper} is {value}."
TEMPLATE = (
    "Some facts about keepers are hidden within the following text. Make sure to memorize them. "
    "I will quiz you about one of them afterwards.\n",
    "\nWhat is the secret number of the keeper of {place} mentioned in the provided text?",
    "The secret number of the keeper of {place} mentioned in the provided text is",
)


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
        before, after, prefix = (part.format(place=place) for part in TEMPLATE)
        return Sample(before=before, text=text, after=after, prefix=prefix, answers=(value,))

    return build
