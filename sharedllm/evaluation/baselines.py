"""Baselines whose prompt is plain text: the document, a part of it, or its best windows.

:data:`BASELINES` is open: a program can add methods of its own before a run.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sharedllm.encoding.document import Document
from sharedllm.errors import ConfigError, MissingExtraError
from sharedllm.evaluation.methods import (
    Case,
    DoesNotFitError,
    Losses,
    Memory,
    Method,
    Prompted,
    Ready,
)
from sharedllm.generation.prompt import part_ids
from sharedllm.injection.positions import Prompt
from sharedllm.search.bm25 import BM25
from sharedllm.search.citations import BETWEEN
from sharedllm.search.leaf_scores import Scores
from sharedllm.search.query import Query
from sharedllm.shared_llm import SharedLLM
from sharedllm.text.tree import cut, grow

LEAST = 16  # tokens; a shorter piece of a window is not pasted
WINDOW = 256
MINILM_LONGEST = 512  # BERT's positions; a window has fewer word pieces


class Ranker(Protocol):
    """Scores the windows of a document for a question."""

    name: str

    def score(self, query: str, document: Document) -> Scores: ...

    def flops(self, tokens: int) -> float:
        """Return the operations to index `tokens` tokens."""
        ...

    def stored(self, document: Document) -> int:
        """Return the bytes kept for a document."""
        ...


def windows_of(document: Document) -> list[tuple[int, int]]:
    """Return tokens [start, end) of each window of a document."""
    return [(c.start, c.end) for c in cut(len(document), WINDOW)]


class BM25Ranker:
    """Okapi BM25 over the windows."""

    name = "BM25"

    def score(self, query: str, document: Document) -> Scores:
        def windows() -> Document:
            forest = grow(cut(len(document), WINDOW), 0)
            return dataclasses.replace(document, forest=forest, _derived={})

        asked = Query(text=query, ids=np.empty(0, np.int32), vectors=torch.empty(0))
        return BM25().leaf_scores(asked, [document.derived("windows", windows)])[0]

    def flops(self, tokens: int) -> float:
        return 0.0  # only matrix products are counted

    def stored(self, document: Document) -> int:
        return len(document.text.encode())


class MiniLMRanker:
    """Cosine of MiniLM's mean-pooled embeddings of window and question.

    Raises
    ------
    MissingExtraError
        If the package with its weights is not installed.
    """

    name = "MiniLM"

    def __init__(self, device: torch.device) -> None:
        from sharedllm.hf.minilm import MiniLM

        self._embed = MiniLM(device, longest=MINILM_LONGEST)

    def score(self, query: str, document: Document) -> Scores:
        def vectors() -> NDArray[np.float32]:
            return self._embed([document.text_of(*span) for span in windows_of(document)])

        return np.asarray(document.derived("minilm", vectors) @ self._embed([query])[0])

    def flops(self, tokens: int) -> float:
        return float(2 * self._embed.matrix_parameters * tokens)

    def stored(self, document: Document) -> int:
        vectors = 4 * self._embed.dimensions * len(windows_of(document))
        return len(document.text.encode()) + vectors


class Pasted(Prompted):
    """Base of methods that paste token ids of the document into the prompt.

    Parameters
    ----------
    adapter : run the prompt with the model's adapter rather than with the base
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
            tokens=len(body),
            flops=self.size.prefill(prompt.text_tokens),
            ingest_flops=self.ingest(case),
            stored=self.stored(case, len(body)),
        )

    def room(self, case: Case) -> int:
        """Return the tokens of a document that fit the trained window."""
        own = len(case.frame.head) + len(case.frame.tail)
        return self.llm.window - own - case.frame.following

    @abstractmethod
    def body(self, case: Case, budget: int | None) -> Sequence[int]:
        """Return the token ids at the document's place."""

    def ingest(self, case: Case) -> float:
        return 0.0

    def stored(self, case: Case, tokens: int) -> int:
        """Return the bytes kept: by default the KV of the pasted tokens, for the next question."""
        return self.size.kv(tokens)


class Full(Pasted):
    """Full attention to the whole document, if it fits the trained window."""

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
            raise DoesNotFitError(f"beyond the trained window at {budget:,} tokens")
        kept = min(len(ids), room if budget is None else budget)
        if kept <= 0 < len(ids):
            raise DoesNotFitError("the question alone fills the trained window")
        first = kept // 2 if self.side == "middle" and kept < len(ids) else 0
        return (*ids[:first], *ids[len(ids) - (kept - first) :])


class Windows(Pasted):
    """Top-k retrieval: the best windows of 256 tokens, best last.

    Windows and separators take exactly the budget; the last window to fit is cut.

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
            raise DoesNotFitError(f"beyond the trained window at {budget:,} tokens")
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

    def stored(self, case: Case, tokens: int) -> int:
        return 0 if case.document is None else self.ranker.stored(case.document)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The methods to run, and their settings.

    Attributes
    ----------
    baselines : tuple of str or None
        Names in :data:`BASELINES`; None runs all.
    adapter : bool
        Also run the baselines with the adapter.
    search : fields of SearchConfig, for SharedLLM
    """

    baselines: tuple[str, ...] | None = None
    adapter: bool = False
    batch: int = 8
    search: dict[str, Any] = field(default_factory=dict)


class Missing(Method):
    """A method that cannot run here; its row shows the reason."""

    budgeted = False

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason

    def prepare(self, case: Case, budget: int | None) -> Ready:
        raise DoesNotFitError(self.reason)

    def generate(self, ready: Sequence[Ready], new_tokens: int) -> list[str]:
        return []

    def losses(self, ready: Sequence[Ready], targets: Sequence[Sequence[int]]) -> list[Losses]:
        return []


def full(llm: SharedLLM, choice: Choice) -> list[Method]:
    return [_named(Full(llm, choice.batch, adapter=a)) for a in _readers(choice)]


def truncated(llm: SharedLLM, choice: Choice) -> list[Method]:
    return [
        _named(Truncated(llm, choice.batch, side=side, budgeted=budgeted, adapter=a))
        for side in ("middle", "left")
        for budgeted in (False, True)
        for a in _readers(choice)
    ]


def bm25(llm: SharedLLM, choice: Choice) -> list[Method]:
    ranker = BM25Ranker()
    return [_named(Windows(llm, choice.batch, ranker=ranker, adapter=a)) for a in _readers(choice)]


def minilm(llm: SharedLLM, choice: Choice) -> list[Method]:
    try:
        ranker = MiniLMRanker(llm.upper.device)
    except MissingExtraError as error:
        return [Missing("MiniLM windows", str(error))]
    return [_named(Windows(llm, choice.batch, ranker=ranker, adapter=a)) for a in _readers(choice)]


BASELINES: dict[str, Callable[[SharedLLM, Choice], list[Method]]] = {
    "full": full,
    "truncated": truncated,
    "bm25": bm25,
    "minilm": minilm,
}


def make_methods(llm: SharedLLM, choice: Choice) -> list[Method]:
    """Make SharedLLM and the chosen baselines.

    Raises
    ------
    ConfigError
        If baselines should run with the adapter and the model has none.
    """
    if choice.adapter and llm.adapter is None:
        raise ConfigError(
            "--baseline-adapter needs an adapter, and none is loaded; give one with --adapter"
        )
    chosen = BASELINES if choice.baselines is None else choice.baselines
    made = [method for name in chosen for method in BASELINES[name](llm, choice)]
    return [Memory(llm, choice.batch, **choice.search), *made]


def _readers(choice: Choice) -> tuple[bool, ...]:
    """Return the values of `adapter` for the rows of a baseline."""
    return (False, True) if choice.adapter else (False,)


def _named(method: Full | Truncated | Windows) -> Method:
    if method.adapter:
        method.name += " + adapter"
    return method


def parse_names(names: str) -> tuple[str, ...]:
    """Parse the value of --baselines: names separated by commas, "all" or "none"."""
    if names in ("all", "none"):
        return tuple(BASELINES) if names == "all" else ()
    given = tuple(name.strip() for name in names.split(",") if name.strip())
    unknown = [name for name in given if name not in BASELINES]
    if unknown or not given:
        raise ConfigError(
            f"--baselines is {names!r}; allowed: all, none, or some of {', '.join(BASELINES)} "
            "with commas between them"
        )
    return tuple(name for name in BASELINES if name in given)
