"""The budget that follows the question: how much a first look shows, and how much a second.

A small reader loses more to what stands beside the evidence than search loses by showing less. So a
first look shows as many leaves as are close to the best one, one to three. Where the question asks
for several things, it shows many places, of each the sentences around the best match; where it asks
for an explanation or a summary, many whole leaves. Where the model, having read that, would
abstain, a second look shows more places in the form of sentences, before anything is given out
(docs/experiments.md, 39 and 41).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sharedllm.config import AUTO, SearchConfig
from sharedllm.search.leaf_scores import Scores
from sharedllm.search.scorers import is_by_place
from sharedllm.search.selection import with_neighbours
from sharedllm.text.tree import Forest

FEW, SOME, MORE, MANY = 192, 384, 512, 1024  # tokens: one leaf, two, three, seven
FIXED = MANY  # where scores say nothing of what is needed
CLOSE = 0.8  # share of the best leaf's lead over the mean from which another is close to it
REFUSED = 0.4  # probability of the refusal's first token from which a look is not enough
LONG = 40  # words of a question, of which only the last sentence asks
_YES_NO = r"^(?:is|are|was|were|do|does|did|has|have|had|can|could|should|would|will|may|must)\b"
_PLURAL = r"(?!(?:does|has|is|was|this|his|its)\b)\w{2,}(?<![sui'])s\b"
_AUXILIARY = r"(?= (?:are|were|do|does|did|have|can|could|will|would|may|must|should)\b)"
SEVERAL = re.compile(
    r"\b(?:all|every|each|both|list|enumerate)\b"
    r"|\b(?:what|which|who) (?:are|were)\b"
    rf"|\bwhich {_PLURAL}|\b(?:which|what) (?:\w+ )?{_PLURAL}{_AUXILIARY}"
    r"|\?.*\?|,[^,]+, (?:and|or) ",
    re.IGNORECASE | re.DOTALL,
)
EXPLAINED = re.compile(
    r"\b(?:summari[sz]e|summary|tl;?dr|overview|explain|describe|discuss)\b"
    r"|\b(?:information|tell \w+) (?:about|on)\b"
    r"|^(?:why|how (?!many|much|long|old|far|big|often|tall|high|large))\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Looks:
    """The budgets of one question.

    Attributes
    ----------
    first : int
        Tokens of the first look.
    second : int or None
        Tokens of a second look, for where the model is unsure after the first; None is no second.
    several : bool
        The question asks for several things, or needs what its evidence names: of each leaf only
        the sentences around its best match are shown, so that more places fit. A second look does
        so always.
    """

    first: int = FIXED
    second: int | None = None
    several: bool = False


def decide(
    question: str,
    forests: Sequence[Forest],
    scores: Sequence[Scores],
    search: SearchConfig,
    *,
    room: int,
    overhead: Sequence[int] | None = None,
    twice: bool = True,
    compressed: bool = False,
    followed: int = 0,
) -> Looks:
    """Decide the budget of a question from its words and the scores of all nodes.

    A fixed ``search.budget`` stays what it is. "auto" compares the leads of leaves over the mean,
    as shares of the best one's: that works for every scorer, and for a user's own, whose scores
    have no unit. ``recency`` ranks by place, which says nothing, and gets 1,024 tokens. So do
    leaves as KV, ``selection="path"`` and a coarse level, which takes a share of any budget: for
    these, smaller budgets were not measured.

    Parameters
    ----------
    forests, scores : one each per document
    room : tokens that the trained window leaves for evidence
    overhead : tokens that a leaf costs besides its own, for each document; None is 0
    twice : the model can tell that a look was not enough; one that cannot is shown more at once
    compressed : a coarse level takes its share of the budget
    followed : leaves that later rounds of search found; then the answer needs several places, too
    """
    asked = asks_for_several(question)
    several = followed > 0 or asked
    if search.budget != AUTO:
        return Looks(first=search.fixed_budget, several=several)
    most = max(1, min(search.max_budget, room - room // 8))  # an eighth stands between documents
    costs = _costs(forests, overhead)
    plain = search.leaves != "kv" and search.selection == "budget" and not compressed
    if not plain or is_by_place(search.scorer):
        return Looks(first=min(max(FIXED, int(costs.max())), most), several=several)
    lead = leads([s[f.leaves] for f, s in zip(forests, scores, strict=True)], search.neighbours)
    close = int((lead >= CLOSE * lead.max()).sum())
    first, second = ((FEW, MORE), (SOME, MORE), (MORE, MANY))[min(close, 3) - 1]
    if asked or EXPLAINED.search(question):
        first, second = MANY, search.max_budget
    elif followed:
        first, second = SOME, search.max_budget
    if not twice:
        first = MORE if first == FEW else MANY
    least = int(costs[lead.argmax()])  # the best leaf fits
    first, second = (min(max(tokens, least), most) for tokens in (first, second))
    more = second if twice and second > first else None
    return Looks(first=first, second=more, several=several)


def _costs(forests: Sequence[Forest], overhead: Sequence[int] | None) -> NDArray[np.int64]:
    """Return the tokens that each leaf of all documents takes, without sentences around it."""
    besides = overhead or [0] * len(forests)
    own = [(f.end - f.start)[f.leaves] + more for f, more in zip(forests, besides, strict=True)]
    return np.concatenate(own).astype(np.int64)


def asks_for_several(question: str) -> bool:
    """Tell a question for several things: "all", "list", a plural, two questions (English)."""
    if len(question.split()) > LONG:
        question = re.split(r"(?<=[.!?:])\s+", question.strip())[-1]
    return bool(SEVERAL.search(question)) and not re.match(_YES_NO, question, re.IGNORECASE)


def leads(scores: Sequence[Scores], neighbours: Sequence[float]) -> NDArray[np.float64]:
    """Return how far each leaf is ahead of the mean, by the scores that the selection ranks by.

    Parameters
    ----------
    scores : of the leaves of each document
    neighbours : shares of the neighbours' scores that are added
    """
    wide = [own.astype(np.float64) for own in scores]
    neutral = float(np.concatenate(wide).mean())
    near = np.concatenate([with_neighbours(own, neighbours, neutral) for own in wide])
    lead: NDArray[np.float64] = near - near.mean()
    return lead


def is_unsure(refused: float) -> bool:
    """Tell if a look was not enough, by the probability of the refusal's first token."""
    return refused >= REFUSED
