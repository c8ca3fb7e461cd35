"""Baselines whose prompt is plain text: the whole document, a part of it, or its best windows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from sharedllm.encoding.document import Document
from sharedllm.evaluation.methods import Case, DoesNotFitError, Prompted, Ready
from sharedllm.evaluation.retrieval import Ranker, windows_of
from sharedllm.generation.prompt import part_ids
from sharedllm.injection.positions import Prompt
from sharedllm.shared_llm import SharedLLM

BETWEEN = "\n...\n"
LEAST = 16  # tokens below which a window's rest is not worth pasting


class Pasted(Prompted):
    """Token ids of the document go into the prompt.

    Parameters
    ----------
    adapter : whether the model's adapter reads the prompt; without, it is the plain base
    """

    def __init__(self, llm: SharedLLM, batch: int = 8, *, adapter: bool = False) -> None:
        super().__init__(llm, batch)
        self.adapter = adapter

    def prepare(self, case: Case, budget: int | None) -> Ready:
        body = self.body(case, budget)
        prompt = Prompt(
            text=((*case.frame.head, *body, *case.frame.tail),),
            reads=self.adapter and case.document is not None,
        )
        return Ready(
            case=case,
            prompt=prompt,
            entries=len(body),
            flops=self.size.prefill(prompt.running_tokens),
            ingest_flops=self.ingest(case),
            stored=self.stored(case, len(body)),
        )

    def room(self, case: Case) -> int:
        """Tokens of a document that fit the trained window."""
        own = len(case.frame.head) + len(case.frame.tail)
        return self.llm.window - own - case.frame.following

    @abstractmethod
    def body(self, case: Case, budget: int | None) -> Sequence[int]:
        """What stands in the document's place."""

    def ingest(self, case: Case) -> float:
        return 0.0

    def stored(self, case: Case, entries: int) -> int:
        """Without more: the KV of what was pasted, which the next question can reuse."""
        return self.size.kv(entries)


class Full(Pasted):
    """Full attention to the whole document, where it fits the trained window."""

    budgeted = False
    name = "full attention"

    def body(self, case: Case, budget: int | None) -> Sequence[int]:
        ids, room = case.ids, self.room(case)
        if len(ids) > room:
            raise DoesNotFitError(f"beyond the trained window of {self.llm.window:,}")
        return ids


class Truncated(Pasted):
    """The document cut to the budget, or to the window.

    Parameters
    ----------
    side : "middle" drops the middle; "left" drops the beginning
    """

    def __init__(
        self,
        llm: SharedLLM,
        batch: int = 8,
        *,
        side: str,
        budgeted: bool,
        adapter: bool = False,
    ) -> None:
        super().__init__(llm, batch, adapter=adapter)
        self.side, self.budgeted = side, budgeted
        self.name = f"truncated, {side}"

    def body(self, case: Case, budget: int | None) -> Sequence[int]:
        ids, room = case.ids, self.room(case)
        if budget is not None and min(budget, len(ids)) > room:
            raise DoesNotFitError(f"beyond the trained window at {budget:,} entries")
        kept = min(len(ids), room if budget is None else budget)
        if kept <= 0 < len(ids):
            raise DoesNotFitError("the question alone fills the trained window")
        first = kept // 2 if self.side == "middle" and kept < len(ids) else 0
        return (*ids[:first], *ids[len(ids) - (kept - first) :])


class Windows(Pasted):
    """The best windows of 256 tokens, best last: top-k retrieval.

    The windows, with what separates them, take exactly the budget: of the worst one that is
    pasted, only as much as fits.

    Parameters
    ----------
    ranker : scores the windows of a document
    """

    budgeted = True

    def __init__(
        self, llm: SharedLLM, batch: int = 8, *, ranker: Ranker, adapter: bool = False
    ) -> None:
        super().__init__(llm, batch, adapter=adapter)
        self.ranker = ranker
        self.name = f"{ranker.name} windows"

    def body(self, case: Case, budget: int | None) -> Sequence[int]:
        document = case.document
        if document is None or budget is None:
            return ()
        if min(budget, len(document)) > self.room(case):
            raise DoesNotFitError(f"beyond the trained window at {budget:,} entries")
        if len(document) <= budget:
            return case.ids
        between = part_ids(BETWEEN, self.llm.tokenizer)
        spans = windows_of(document)
        ids, left = document.tokens.ids, budget
        chosen: list[list[int]] = []
        for start, end in self._best(case, document, spans):
            left -= len(between) if chosen else 0
            if left < LEAST:
                break
            chosen.append(ids[start : min(end, start + left)].tolist())
            left -= len(chosen[-1])
        out: list[int] = []
        for piece in reversed(chosen):
            out += [*(between if out else []), *piece]
        return out

    def _best(
        self, case: Case, document: Document, spans: Sequence[tuple[int, int]]
    ) -> list[tuple[int, int]]:
        key = f"windows {self.ranker.name}"
        if key not in case.scores:
            case.scores[key] = [self.ranker.score(case.item.query, document)]
        scores = case.scores[key][0]
        return [spans[i] for i in sorted(range(len(spans)), key=lambda i: -float(scores[i]))]

    def ingest(self, case: Case) -> float:
        return 0.0 if case.document is None else self.ranker.flops(len(case.document))

    def stored(self, case: Case, entries: int) -> int:
        return 0 if case.document is None else self.ranker.stored(case.document)
