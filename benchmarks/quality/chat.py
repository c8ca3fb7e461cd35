"""Whether instruction following is kept: likelihood of reference replies without documents."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.quality.chat_set import PROMPTS
from sharedllm.errors import DocumentError
from sharedllm.evaluation.baselines import Pasted
from sharedllm.evaluation.items import Item
from sharedllm.evaluation.methods import Case, DoesNotFitError, Method, Ready
from sharedllm.evaluation.metrics import Metric, Row
from sharedllm.evaluation.options import Settings
from sharedllm.evaluation.run import Session
from sharedllm.generation.prompt import part_ids
from sharedllm.shared_llm import SharedLLM
from sharedllm.text.loaders import read_rows

BASE, AS_USED, FORCED = "base (adapter=None)", "with adapter", "adapter forced on"
METRICS = (
    Metric(key="nll", title="NLL", digits=3, lower=True),
    Metric(key="nll_again", title="ratio to base", weight="base_nll", digits=4, lower=True),
)
INSTRUCTION, REPLY = ("instruction", "question", "prompt"), ("response", "answer", "output")


class Reply(Pasted):
    """A chat prompt without documents.

    Parameters
    ----------
    adapter : whether the adapter acts although there is nothing to read
    """

    budgeted = False

    def __init__(self, llm: SharedLLM, batch: int, name: str, *, adapter: bool = False) -> None:
        super().__init__(llm, batch, adapter=adapter)
        self.name = name

    def prepare(self, case: Case, budget: int | None) -> Ready:
        ready = super().prepare(case, budget)
        return dataclasses.replace(
            ready, prompt=dataclasses.replace(ready.prompt, reads=self.adapter)
        )

    def body(self, case: Case, budget: int | None) -> Sequence[int]:
        if self.room(case) < 0:
            raise DoesNotFitError(f"beyond the trained window of {self.llm.window:,}")
        return ()


def read(given: Iterable[Mapping[str, Any]], path: str) -> Iterator[Item]:
    """Items of rows of messages, or of an instruction (question) and a response (answer).

    Raises
    ------
    DocumentError
        For a row of neither form.
    """
    for number, row in enumerate(given, start=1):
        where = f"row {number} of {path!r}"
        messages = row.get("messages")
        if messages is None:
            asked = next((row[k] for k in INSTRUCTION if isinstance(row.get(k), str)), None)
            reply = next((row[k] for k in REPLY if row.get(k)), None)
            reply = reply[0] if isinstance(reply, list) else reply
            messages = [_message("user", asked), _message("assistant", reply)]
        yield _item(messages, f"{path}:{number}", where)


def _message(role: str, content: object) -> dict[str, object]:
    return {"role": role, "content": content}


def _item(messages: Any, name: str, where: str) -> Item:
    turns = [
        (m.get("role"), m.get("content")) if isinstance(m, Mapping) else (None, None)
        for m in (messages if isinstance(messages, list) else [])
    ]
    texts = all(isinstance(text, str) and text.strip() for _, text in turns)
    if len(turns) < 2 or [role for role, _ in turns[-2:]] != ["user", "assistant"] or not texts:
        raise DocumentError(
            f"{where} is no conversation; give messages that end with the user's and the "
            "assistant's, or an instruction (question) and a response (answer)"
        )
    return Item(
        id=name,
        task="chat",
        after=str(turns[-2][1]),
        target=str(turns[-1][1]),
        earlier=tuple({"role": str(role), "content": str(text)} for role, text in turns[:-2]),
        new_tokens=1,
        notes={"question": str(turns[-2][1])},
    )


def chosen(items: Sequence[Item], n: int, seed: int) -> list[Item]:
    """At most `n` of `items`."""
    return list(items) if len(items) <= n else random.Random(seed).sample(items, n)


def measure(method: Method, ready: Sequence[Ready]) -> list[Row]:
    targets = [part_ids(r.case.item.target, method.tokenizer) for r in ready]
    return [
        {
            "nll": float(losses.mean()),
            "tokens": len(losses),
            "question": r.case.item.notes["question"],
        }
        for r, losses in zip(ready, method.losses(ready, targets), strict=True)
    ]


def with_ratio(found: Sequence[Row]) -> list[Row]:
    """The rows with the base's NLL of the same item beside their own."""
    base = {row["item"]: row["nll"] for row in found if row["method"] == BASE and "nll" in row}
    return [
        row | {"nll_again": row["nll"], "base_nll": base[row["item"]]}
        if row["method"] != BASE and "nll" in row
        else row
        for row in found
    ]


def run(settings: Settings, paths: Sequence[str], llm: SharedLLM | None = None) -> dict[str, Any]:
    """The likelihood of reference replies without documents, with the adapter and without."""
    if paths:
        every = [item for path in paths for item in read(read_rows(path), path)]
    else:
        listed = [{"instruction": asked, "response": reply} for asked, reply in PROMPTS]
        every = list(read(listed, "built-in"))
    if not every:
        raise DocumentError(f"no row in {', '.join(map(repr, paths))}")
    session = Session("chat", settings, llm, budgeted=False)
    base, batch = session.llm, settings.batch
    if session.llm.adapter is None:
        session.note("no adapter is loaded: both rows are the base")
    elif llm is None:
        base = SharedLLM.from_pretrained(
            settings.model, adapter=None, device=settings.device, dtype=settings.dtype
        )
    compared: list[Method] = [
        Reply(base, batch, BASE),
        Reply(session.llm, batch, AS_USED),
    ]
    if session.llm.adapter is not None:
        compared.append(Reply(session.llm, batch, FORCED, adapter=True))
    items = chosen(every, settings.items, settings.seed)
    found = session.rows(items, len(items), measure, compared)
    return session.finish(with_ratio(found), METRICS, title="Replies without documents")
