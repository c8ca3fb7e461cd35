"""Cases -> lessons: documents are read, passages chosen as search would, a prompt is laid out.

Each case draws its token budget, the form of its leaves, whether there is a coarse level, how nodes
split and which prompt it is put into, so that one set of weights serves every setting. This is what
:mod:`sharedllm.training.batch` does for one document, extended to several and to conversations.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.default_adapter.cases import Case
from benchmarks.default_adapter.packing import Lesson, make_lesson
from sharedllm.config import SearchConfig, TreeConfig
from sharedllm.encoding.document import Document
from sharedllm.generation.assemble import make_plan
from sharedllm.generation.prompt import ABSENT, Conversation, Message, converse, turn_end
from sharedllm.search.bm25 import BM25
from sharedllm.search.citations import complete_sentences, window_overheads
from sharedllm.search.query import Query
from sharedllm.search.selection import Selection, select
from sharedllm.text.tokens import Tokenizer, tokenize
from sharedllm.training.batch import Choice, fill, keep_text
from sharedllm.training.examples import NO_VECTORS, leaves_of, make_document
from sharedllm.training.train_config import read_config

PROMPTS = Path(__file__).with_name("train_further.toml")  # of retrieval chains, as for version 3
# questions whose answer takes sentences whatever the prompt asks for
EXPLAINS = re.compile(r"why|how (?!many|much|long|old|far|big)|explain|describe|summari[sz]e", re.I)
COARSE_FROM = 512  # tokens of a budget that has room for a coarse level beside its leaves
Scores = list[NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """The distributions from which settings are drawn.

    Attributes
    ----------
    budget : least and most tokens, log-uniform
    usual : the same as the default budget takes, for the share `common` of the lessons
    forms : shares of leaves as text, as KV, and as KV with a twin as text
    ratios : tokens per KV entry of leaves as KV, and their shares; above 1 there is always a twin
    coarse : share with a coarse level around the leaves
    miss : share whose evidence is not preferred
    noise : nodes of half of the cases split at N(l/2, (noise l)^2)
    own : share in the library's own prompt; the others have those of retrieval chains
    late : share of conversations with their documents in the last message
    lead : text that begins every answer (``AdapterConfig.answer_lead``)
    """

    budget: tuple[int, int] = (128, 4096)
    usual: tuple[int, int] = (192, 1024)
    common: float = 0.4
    forms: tuple[float, float, float] = (0.4, 0.3, 0.3)
    ratios: tuple[tuple[float, float], ...] = ((1, 0.84), (2, 0.11), (4, 0.05))
    coarse: float = 0.1
    miss: float = 0.05
    noise: float = 0.1
    own: float = 0.6
    late: float = 0.75
    lead: str = " "


class Chooser:
    """Makes a lesson of each case.

    Parameters
    ----------
    tree : TreeConfig
        With ``context = chunk`` the nodes of a chunk come from one pass.
    """

    def __init__(self, tokenizer: Tokenizer, tree: TreeConfig, drawn: Drawn, seed: int) -> None:
        self._tokenizer, self._tree, self._drawn = tokenizer, tree, drawn
        self._prompts = read_config(PROMPTS).selection.prompts
        self._end_id = turn_end(tokenizer)
        self._rng = random.Random(seed)
        self._numpy = np.random.default_rng(seed)

    def __call__(self, case: Case) -> Lesson:
        return make_lesson(self.choose(case), self._tokenizer)

    def choose(self, case: Case) -> Choice:
        """Draw settings and choose passages; with leaves of both forms, the text is the teacher."""
        form = self._rng.choices(("text", "kv", "both"), self._drawn.forms)[0]
        tree = self._tree if form == "text" else self._draw_tree()
        if tree.leaf_ratio > 1:
            form = "both"
        noise = self._drawn.noise if self._rng.random() < 0.5 else 0.0
        documents = [
            self._read(source.text, source.title, index, noise)
            for index, source in enumerate(case.sources)
        ]
        wanted = [
            [leaves_of(document, *span) for span in source.evidence]
            for document, source in zip(documents, case.sources, strict=True)
        ]
        settings = self._settings(case, "text" if form == "text" else "kv")
        selection = self._selection(case, documents, wanted, settings, tree)
        answer = case.answer
        if any(wanted) and not _reads(_fine(selection, documents), wanted):
            answer = ABSENT  # the evidence was not selected: an answer would be made up
        lead = self._drawn.lead if case.question else ""
        target = tokenize(lead + answer, self._tokenizer).ids.tolist()
        if case.question:
            conversation = self._conversation(case, documents)
            target.append(self._end_id)
        else:  # language modelling: the text continues its past
            conversation = Conversation(parts=("", documents[0], ""), query="")
        teacher = None
        if form == "both":
            teacher = make_plan(conversation, keep_text(selection), self._tokenizer)
        return Choice(
            kind=f"{case.kind}/{settings.leaves}{_suffix(tree)}",
            plan=make_plan(conversation, selection, self._tokenizer),
            target=tuple(target),
            lesson=teacher,
        )

    def _draw_tree(self) -> TreeConfig:
        """Draw the ratio of the leaves."""
        ratios, shares = zip(*self._drawn.ratios, strict=True)
        ratio = self._rng.choices(ratios, shares)[0]
        return self._tree.replace(ratios=(*self._tree.ratios[:-1], ratio))

    def _read(self, text: str, title: str, index: int, noise: float) -> Document:
        document = make_document(text, self._tokenizer, self._tree, noise=noise, rng=self._numpy)
        return replace(document, id=str(index), title=title)

    def _settings(self, case: Case, leaves: str) -> SearchConfig:
        usual = self._rng.random() < self._drawn.common
        least, most = self._drawn.usual if usual else self._drawn.budget
        budget = int(least * (most / least) ** self._rng.random())
        budget = max(self._tree.leaf + 24, budget)  # one leaf with its label
        coarse = budget >= COARSE_FROM and self._rng.random() < self._drawn.coarse
        return SearchConfig(
            budget=budget,
            leaves=leaves,  # type: ignore[arg-type]
            coarse="all" if coarse else "none",
            coarse_share=self._rng.uniform(0.2, 0.5),
            scorer="bm25" if case.question else "recency",
        )

    def _selection(
        self,
        case: Case,
        documents: Sequence[Document],
        wanted: Sequence[Sequence[NDArray[np.int32]]],
        settings: SearchConfig,
        tree: TreeConfig,
    ) -> Selection:
        """Select by noisy BM25 with the evidence near the front; without a question by recency."""
        scores = self._scores(case, documents)
        if any(wanted) and self._rng.random() >= self._drawn.miss:
            ranked = np.sort(np.concatenate(scores))[::-1]
            share = 1 - settings.coarse_share if settings.coarse == "all" else 1
            room = share * settings.budget / (tree.leaf / tree.leaf_ratio + 4)
            for own, spans in zip(scores, wanted, strict=True):
                for leaves in spans:
                    rank = int(room * self._rng.random())
                    own[leaves] = ranked[min(rank, len(ranked) - 1)] + 1e-3
            first = self._select(documents, scores, settings, tree)
            if _covers(_fine(first, documents), wanted):
                return first
            for own, spans in zip(scores, wanted, strict=True):
                for leaves in spans:
                    own[leaves] = ranked[0] + 100
        return self._select(documents, scores, settings, tree)

    def _select(
        self,
        documents: Sequence[Document],
        scores: Scores,
        settings: SearchConfig,
        tree: TreeConfig,
    ) -> Selection:
        return select(
            [document.forest for document in documents],
            [d.forest.from_leaves(s) for d, s in zip(documents, scores, strict=True)],
            settings,
            tree,
            overhead=window_overheads(documents, self._tokenizer),
            widen=lambda d, node: complete_sentences(documents[d], node, settings.sentences),
        )

    def _scores(self, case: Case, documents: Sequence[Document]) -> Scores:
        counts = [len(document.forest.leaves) for document in documents]
        if not case.question:
            return [np.arange(count, dtype=np.float32) for count in counts]
        text = case.sought or case.question
        query = Query(text=text, ids=np.empty(0, np.int32), vectors=NO_VECTORS)
        found: Scores = BM25().leaf_scores(query, documents)
        return [
            own + self._numpy.gumbel(0.0, 0.5, count).astype(np.float32)
            for own, count in zip(found, counts, strict=True)
        ]

    def _conversation(self, case: Case, documents: Sequence[Document]) -> Conversation:
        """Ask in the library's own prompt, in a conversation, or in a retrieval chain's prompt."""
        if case.history:
            return self._chat(case, documents)
        # the own prompt asks for a short answer
        short = not case.sentences or EXPLAINS.match(case.question)
        if self._rng.random() < self._drawn.own and short:
            return converse(case.question, documents, self._tokenizer)
        if self._rng.random() < 0.3:  # plain messages, as chat programs send them
            turns = [{"role": "user", "content": case.question}]
            return converse(turns, documents, self._tokenizer)
        fitting = [
            (system, user)
            for system, user in self._prompts
            if not (case.sentences and ("few" in system or "oncise" in system))
        ]
        system, user = self._rng.choice(fitting)
        shown = [("system", system), ("user", user)] if system else [("user", user)]
        messages = [
            {"role": role, "content": fill(content, case.question, documents)}
            for role, content in shown
        ]
        return converse(messages, (), self._tokenizer)

    def _chat(self, case: Case, documents: Sequence[Document]) -> Conversation:
        turns = [
            {"role": role, "content": content}
            for pair in case.history
            for role, content in zip(("user", "assistant"), pair, strict=True)
        ]
        if self._rng.random() < self._drawn.late:
            turns.append({"role": "user", "content": case.question})
            return converse(turns, documents, self._tokenizer)
        parts: list[Message] = [{"type": "document", "document": d} for d in documents]
        first: list[Message] = [*parts, {"type": "text", "text": "\n\n" + str(turns[0]["content"])}]
        rest = [*turns[1:], {"role": "user", "content": case.question}]
        return converse([{"role": "user", "content": first}, *rest], (), self._tokenizer)


def _suffix(tree: TreeConfig) -> str:
    return "" if tree.leaf_ratio == 1 else f"{tree.leaf_ratio:g}"


def _fine(selection: Selection, documents: Sequence[Document]) -> list[set[int]]:
    """Return for each document the ranks of the leaves that were selected as fine nodes."""
    out: list[set[int]] = [set() for _ in documents]
    for node in selection.nodes:
        if node.fine:
            document = documents[node.document]
            out[node.document].add(int(document.leaf_of_token[document.forest.start[node.node]]))
    return out


def _reads(found: Sequence[set[int]], wanted: Sequence[Sequence[NDArray[np.int32]]]) -> bool:
    """Return True if any leaf of the evidence was selected."""
    return any(
        own.intersection(np.concatenate(spans).tolist())
        for own, spans in zip(found, wanted, strict=True)
        if spans
    )


def _covers(found: Sequence[set[int]], wanted: Sequence[Sequence[NDArray[np.int32]]]) -> bool:
    """Return True if every leaf of the evidence was selected."""
    return all(
        own.issuperset(np.concatenate(spans).tolist())
        for own, spans in zip(found, wanted, strict=True)
        if spans
    )
