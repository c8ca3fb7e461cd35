"""SharedLLM itself: search under the budget, evidence as text or memory as KV."""

from __future__ import annotations

import dataclasses
from typing import Any

from sharedllm.encoding.document import Document
from sharedllm.errors import WindowError
from sharedllm.evaluation.methods import Case, DoesNotFitError, Prompted, Ready
from sharedllm.generation.assemble import Prepared
from sharedllm.injection.positions import Prompt
from sharedllm.shared_llm import SharedLLM


class Memory(Prompted):
    """Documents are remembered once; each question selects from them.

    Parameters
    ----------
    search : fields of SearchConfig, the budget aside
    """

    budgeted = True

    def __init__(self, llm: SharedLLM, batch: int = 8, **search: Any) -> None:
        super().__init__(llm, batch)
        self.search = search
        self.name = "SharedLLM"

    def prepare(self, case: Case, budget: int | None) -> Ready:
        document, item, llm = case.document, case.item, self.llm
        if document is None:
            prompt = Prompt(text=((*case.frame.head, *case.frame.tail),))
            return Ready(
                case=case, prompt=prompt, entries=0, flops=self.size.prefill(prompt.running_tokens)
            )
        config = llm.search.replace(**self.search, budget=budget)
        if config.policy not in case.scores:
            case.scores[config.policy] = llm.score(item.query, document, policy=config.policy)
        selection = llm.select(
            item.query, document, scores=case.scores[config.policy], **dataclasses.asdict(config)
        )
        conversation = case.frame.conversation(document, item.query)
        try:
            made = llm.assemble(conversation, selection, case.frame.following)
        except WindowError as error:
            raise DoesNotFitError(f"beyond the trained window at {budget:,} entries") from error
        last = (*made.prompt.text[-1], *case.frame.prefix)
        prompt = dataclasses.replace(made.prompt, text=(*made.prompt.text[:-1], last))
        own = len(case.frame.head) + len(case.frame.tail)
        return Ready(
            case=case,
            prompt=prompt,
            entries=prompt.running_tokens - own + prompt.injected_tokens,
            flops=self._flops(document, made),
            ingest_flops=self._ingest(document, config.rest),
            stored=self._stored(document),
        )

    def _flops(self, document: Document, made: Prepared) -> float:
        """The prompt, and the nodes that were selected for this question alone."""
        layers, forest = self.llm.upper.layers, document.forest
        total = self.size.prefill(made.prompt.running_tokens, made.prompt.injected_tokens, layers)
        for node in made.selection.nodes if made.selection else ():
            if not node.as_text and forest.level[node.node] > 0:
                length = int(forest.end[node.node] - forest.start[node.node])
                total += self.size.chunks(length, length, layers)
        return total

    def _ingest(self, document: Document, rest: str) -> float:
        """One layer for search, and the coarse level where it is asked for."""
        layers = 1 + (self.llm.upper.layers if rest == "all" else 0)
        return self.size.chunks(len(document), self.llm.tree.chunk, layers)

    def _stored(self, document: Document) -> int:
        return len(document.text.encode()) + document.vectors.nbytes + document.nodes.nbytes
