"""The budget that follows the question: how much a first look shows, and how much a second.

A small reader loses more to what stands beside the evidence than search loses by showing less, so
a first look shows little. It shows more where the question asks for several things, or where no
place stands out. Where the model is unsure after its first look, a second one shows more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sharedllm.config import SearchConfig
from sharedllm.search.leaf_scores import Scores
from sharedllm.search.scorers import is_by_place
from sharedllm.text.tree import Forest

FEW, SOME, MANY = 192, 512, 1024  # tokens
FIXED = 1024  # where scores say nothing of what is needed
CLOSE = 0.5  # share of the best leaf's lead over the mean from which a leaf counts as close to it
PLACES = 3  # leaves that are close to the best one, from which none stands out
REFUSED = 0.5  # probability of the refusal's first token
_PLURAL = r"(?!(?:does|has|is|was|this|his|its)\b)\w{2,}(?<![sui'])s\b"
_AUXILIARY = r"(?= (?:are|were|do|does|did|have|can|could|will|would|may|must|should)\b)"
SEVERAL = re.compile(
    r"\b(?:all|every|each|both|list|enumerate)\b"
    r"|\b(?:what|which|who) (?:are|were)\b"
    rf"|\bwhich {_PLURAL}|\b(?:which|what) (?:\w+ )?{_PLURAL}{_AUXILIARY}"
    r"|\?.*\?|,[^,]+, (?:and|or) ",
    re.IGNORECASE | re.DOTALL,
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
    """

    first: int = FIXED
    second: int | None = None


def decide(
    question: str,
    forests: Sequence[Forest],
    scores: Sequence[Scores],
    search: SearchConfig,
    *,
    overhead: int = 0,
    room: int,
    compressed: bool = False,
) -> Looks:
    """Decide the budget of a question from its words and the scores of all nodes.

    A fixed ``search.budget`` stays what it is. "auto" compares scores by rank and by shares of the
    best one's lead only, so that it works for every scorer with one exception: ``recency`` ranks by
    place, and gets 1,024 tokens. So do leaves as KV, ``selection="path"`` and a coarse level, which
    takes a share of any budget: for these no budget was measured to be better.

    Parameters
    ----------
    forests, scores : one each per document
    overhead : tokens that a leaf costs at most besides its own
    room : tokens that the trained window leaves for evidence
    compressed : a coarse level takes its share of the budget
    """
    if search.budget != "auto":
        return Looks(first=search.budget)
    least = overhead + max(int((f.end - f.start)[f.leaves].max()) for f in forests)
    most = max(1, min(search.max_budget, room - room // 8))  # an eighth stands between documents
    plain = search.leaves == "text" and search.selection == "budget" and not compressed
    if not plain or is_by_place(search.scorer):
        return Looks(first=min(max(FIXED, least), most))
    several = asks_for_several(question)
    spread = count_close([s[f.leaves] for f, s in zip(forests, scores, strict=True)]) >= PLACES
    first = MANY if several else SOME if spread else FEW
    second = search.max_budget if several else MANY
    first, second = (min(max(tokens, least), most) for tokens in (first, second))
    return Looks(first=first, second=second if second > first else None)


def asks_for_several(question: str) -> bool:
    """Tell a question for several things: "all", "list", a plural, two questions (English)."""
    return bool(SEVERAL.search(question))


def count_close(scores: Sequence[Scores]) -> int:
    """Count the leaves whose lead over the mean is close to the best leaf's."""
    flat = np.concatenate(scores)
    lead = flat - flat.mean()
    return int((lead >= CLOSE * lead.max()).sum()) if lead.max() > 0 else len(flat)


def is_unsure(best: float, refused: float) -> bool:
    """Tell if the model is unsure, by the chances of its first token and of the refusal's."""
    return refused >= REFUSED or best < 0
