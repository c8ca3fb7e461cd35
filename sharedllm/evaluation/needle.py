"""``sharedllm eval needle``: a statement planted in text of any length, and a question for it.

Other statements of the same form are planted in the same text, so that the form alone does not tell
them apart.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from sharedllm.errors import ConfigError
from sharedllm.evaluation.filler import REPEATS, Filler, plant, require_filler
from sharedllm.evaluation.items import Item, frame
from sharedllm.evaluation.methods import Method, Ready
from sharedllm.evaluation.metrics import Metric, Row, contains
from sharedllm.evaluation.options import Settings
from sharedllm.evaluation.run import Session, generate_answers
from sharedllm.generation.prompt import AFTER, BEFORE, part_ids
from sharedllm.shared_llm import SharedLLM
from sharedllm.text.tokens import Tokenizer

METRICS = (Metric(key="found", title="found", scale=100, digits=1),)
STATEMENT = "The access code of the {thing} is {code}."
QUESTION = "What is the access code of the {thing}?"
COLOURS = "amber azure black bronze crimson grey green ivory purple scarlet silver white".split()
THINGS = (
    "archive barn boathouse cellar chapel depot garage greenhouse laboratory library lighthouse "
    "mill observatory pavilion vault workshop"
).split()
STATEMENTS = 4  # per text; the first one is asked for
APART = 2  # tokens that a statement may cost besides its own
NEW_TOKENS = 24
LEAST = 16  # tokens of text around the statements


def items(length: int, n: int, tokenizer: Tokenizer, filler: Filler, seed: int) -> Iterator[Item]:
    """Yield `n` items whose prompt and answer together take at most `length` tokens.

    The statements that are asked for are at evenly spread depths.

    Raises
    ------
    ConfigError
        If the statements alone take more than `length` tokens.
    """
    for index in range(n):
        rng = random.Random(f"{seed} {length} {index}")
        yield _item(index, length, (index + 0.5) / n, tokenizer, filler, rng)


def _item(
    index: int,
    length: int,
    depth: float,
    tokenizer: Tokenizer,
    filler: Filler,
    rng: random.Random,
) -> Item:
    names = rng.sample([f"{colour} {thing}" for colour in COLOURS for thing in THINGS], STATEMENTS)
    codes = [str(code) for code in rng.sample(range(10**5, 10**6), STATEMENTS)]
    stated = [
        STATEMENT.format(thing=name, code=code) for name, code in zip(names, codes, strict=True)
    ]
    question = QUESTION.format(thing=names[0])

    def item(text: str) -> Item:
        return Item(
            id=f"{length}-{index}",
            task="needle",
            length=length,
            text=text,
            before=BEFORE,
            after=AFTER.format(question=question),
            query=question,
            answers=(codes[0],),
            new_tokens=NEW_TOKENS,
            notes={"question": question, "depth": round(depth, 3)},
        )

    around = frame(item(""), tokenizer)
    own = sum(APART + len(part_ids(statement, tokenizer)) for statement in stated)
    own += len(around.head) + len(around.tail) + NEW_TOKENS
    if length < own + LEAST:
        raise ConfigError(
            f"--lengths has {length:,}, but the statements take {own:,} tokens with their question "
            f"and answer: give at least {own + LEAST:,}"
        )
    text = filler.cut(length - own, tokenizer, rng.randrange(2**31))
    for statement in stated[1:]:
        text = plant(text, statement, rng.random(), " ")
    return item(plant(text, stated[0], depth, " "))


def run_needle(
    settings: Settings, filler: Filler | None, llm: SharedLLM | None = None
) -> dict[str, Any]:
    """Run the command; return its JSON object."""
    filler = require_filler(filler, "a planted statement")
    session = Session("needle", settings, llm)
    made = chain.from_iterable(
        items(length, settings.items, session.llm.tokenizer, filler, settings.seed)
        for length in settings.lengths
    )
    found = session.rows(made, settings.items * len(settings.lengths), measure)
    if filler.repeats:
        session.note(REPEATS)
    return session.finish(found, METRICS, title="Planted statements, found in %")


def measure(method: Method, ready: Sequence[Ready]) -> list[Row]:
    """Return a row per answer: 1 if it contains the code."""
    return [
        {
            "found": contains(text, r.case.item.answers),
            "depth": r.case.item.notes["depth"],
            "question": r.case.item.notes["question"],
            "answer": text,
            "gold": list(r.case.item.answers),
        }
        for r, text in zip(ready, generate_answers(method, ready), strict=True)
    ]
