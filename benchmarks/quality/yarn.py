"""The base with its window extended by YaRN (arXiv:2309.00071), without training."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

from sharedllm.encoding.document_encoder import DocumentEncoder
from sharedllm.evaluation.baselines import Pasted
from sharedllm.evaluation.methods import Case, DoesNotFitError, Ready
from sharedllm.shared_llm import SharedLLM


def extended(llm: SharedLLM, factor: int) -> SharedLLM:
    """`llm` with YaRN by `factor`: a model with another rotation on the same weights."""
    shared = {id(p): p for p in (*llm.model.parameters(), *llm.model.buffers())}
    model = copy.deepcopy(llm.model, shared)
    config, window = model.config, llm.window
    config.rope_parameters = {
        **config.rope_parameters,
        "rope_type": "yarn",
        "factor": float(factor),
        "original_max_position_embeddings": window,
    }
    config.max_position_embeddings = window * factor
    decoder = model.get_decoder()
    rotary = type(decoder.rotary_emb)(config).to(llm.upper.device)
    decoder.rotary_emb = rotary
    encoder = DocumentEncoder(model, llm.tokenizer, tree=llm.tree)
    return SharedLLM(encoder, generation=llm.generation)


class Yarn(Pasted):
    """Full attention to the whole document, by the smallest whole factor that makes it fit.

    Parameters
    ----------
    limit : the largest factor to be tried
    """

    budgeted = False
    name = "YaRN"

    def __init__(self, llm: SharedLLM, batch: int = 8, *, limit: int = 16) -> None:
        super().__init__(llm, batch)
        self.limit = limit
        self._extended: dict[int, SharedLLM] = {}

    def body(self, case: Case, budget: int | None) -> Sequence[int]:
        kind = (self.llm.model.config.rope_parameters or {}).get("rope_type", "default")
        if kind != "default":
            raise DoesNotFitError(f"the model's rotation is scaled already ({kind})")
        factor = self.factor(case)
        if factor > self.limit:
            raise DoesNotFitError(f"needs a factor of {factor}; the limit is {self.limit}")
        return case.ids

    def factor(self, case: Case) -> int:
        """The smallest whole factor by which prompt and answer fit."""
        window = self.llm.window
        return math.ceil((len(case.ids) + window - self.room(case)) / window)

    def runs(self, ready: Ready) -> SharedLLM:
        factor = self.factor(ready.case)
        if factor == 1:
            return self.llm
        if factor not in self._extended:
            self._extended[factor] = extended(self.llm, factor)
        return self._extended[factor]
