"""Generated retrieval tasks: made-up facts hidden in text, and questions about them.

Each maker takes a random generator and filler text and gives an :class:`Example` whose answer is
short and follows from the text, or is :data:`ABSENT`. Keys, values and wordings vary, so that what
is learned is looking up, not a phrase.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from sharedllm.generation.prompt import ABSENT
from sharedllm.training.examples import Example
from sharedllm.training.tasks.needles import absent, multi_key, multi_query, multi_value, single
from sharedllm.training.tasks.reasoning import lists, tracking, two_hop
from sharedllm.training.tasks.words import quotation, words

__all__ = ["ABSENT", "MAKERS", "WEIGHTS", "Maker"]

Maker = Callable[[random.Random, str], Example]

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
# how often each is made when a source asks for "retrieval"
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
