"""Generated retrieval tasks: made-up facts hidden in text, and questions about them.

Each maker takes a random generator and filler text and gives an :class:`Example` whose answer is
short and follows from the text, or says that it is not there; those of :data:`CASE_MAKERS` give a
:class:`~benchmarks.default_adapter.cases.Case` instead. Keys, values and wordings vary, so
that what is learned is looking up, not a phrase.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from benchmarks.default_adapter.cases import Case
from benchmarks.default_adapter.tasks.comparing import comparison, interval
from benchmarks.default_adapter.tasks.judging import near_absent, yes_no
from benchmarks.default_adapter.tasks.needles import (
    absent,
    multi_key,
    multi_query,
    multi_value,
    single,
)
from benchmarks.default_adapter.tasks.reasoning import lists, tracking, two_hop
from benchmarks.default_adapter.tasks.telling import conflicting, sentence
from benchmarks.default_adapter.tasks.turns import correction, follow_up, off_topic
from benchmarks.default_adapter.tasks.words import quotation, words
from sharedllm.training.examples import Example

__all__ = [
    "CASE_MAKERS",
    "MAKERS",
    "absent",
    "comparison",
    "conflicting",
    "correction",
    "follow_up",
    "interval",
    "lists",
    "multi_key",
    "multi_query",
    "multi_value",
    "near_absent",
    "off_topic",
    "quotation",
    "retrieval",
    "sentence",
    "single",
    "tracking",
    "two_hop",
    "words",
    "yes_no",
]

Maker = Callable[[random.Random, str], Example]
CaseMaker = Callable[[random.Random, str], Case]

MAKERS: dict[str, Maker] = {
    "single": single,
    "multi_key": multi_key,
    "multi_value": multi_value,
    "multi_query": multi_query,
    "tracking": tracking,
    "two_hop": two_hop,
    "lists": lists,
    "quotation": quotation,
    "words": words,
    "absent": absent,
}
# tasks that need a conversation, several documents, or answers in whole sentences
CASE_MAKERS: dict[str, CaseMaker] = {
    "yes_no": yes_no,
    "follow_up": follow_up,
    "correction": correction,
    "comparison": comparison,
    "interval": interval,
    "conflicting": conflicting,
    "sentence": sentence,
    "near_absent": near_absent,
    "off_topic": off_topic,
}
# how often each is made by `retrieval`
WEIGHTS: dict[str, float] = {
    "single": 0.16,
    "multi_key": 0.22,
    "multi_value": 0.08,
    "multi_query": 0.11,
    "tracking": 0.08,
    "two_hop": 0.10,
    "lists": 0.07,
    "quotation": 0.06,
    "words": 0.03,
    "absent": 0.09,
}


def retrieval(rng: random.Random, filler: str) -> Example:
    """An example of one of the tasks, in the shares of :data:`WEIGHTS`."""
    (task,) = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))
    return MAKERS[task](rng, filler)
