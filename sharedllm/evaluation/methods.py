"""Methods: a case -> a prompt -> answers and likelihoods; SharedLLM is one of them.

Costs are lower bounds computed from a model's sizes (docs/evaluation.md). A multiply-add counts as
two operations; causal attention computes half of its square.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from sharedllm.encoding.document import Document
from sharedllm.errors import SharedLLMError, WindowError
from sharedllm.evaluation.items import Frame, Item
from sharedllm.generation.assemble import Prepared
from sharedllm.hf.architectures import ModelShape, text_config
from sharedllm.injection.positions import Prompt
from sharedllm.search.leaf_scores import Scores
from sharedllm.shared_llm import SharedLLM
from sharedllm.text.tokens import Tokenizer

Losses = NDArray[np.float64]
LOGIT_CELLS = 1 << 29  # logits held at once
MASK_CELLS = 1 << 28  # cells of the dense mask that a batch of different lengths needs


class DoesNotFitError(SharedLLMError):
    """A method cannot take an item; the message is the reason that its row shows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """An item with its document read, shared by all methods.

    Attributes
    ----------
    document : Document or None
        None for an item without a text.
    scores : scores of each scorer, kept from one budget to the next
    """

    item: Item
    frame: Frame
    document: Document | None
    scores: dict[str, list[Scores]] = field(default_factory=dict)

    @property
    def ids(self) -> tuple[int, ...]:
        """The document's tokens."""
        return () if self.document is None else tuple(self.document.tokens.ids.tolist())


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """A case as the prompt of one method, with its costs.

    Attributes
    ----------
    tokens : int
        Tokens of evidence plus injected KV entries.
    flops : float
        Operations to prefill this question.
    ingest_flops : float
        Operations spent once per document, before any question.
    stored : int
        Bytes kept between two questions about the document.
    """

    case: Case
    prompt: Prompt
    tokens: int
    flops: float
    ingest_flops: float = 0.0
    stored: int = 0


class Method(ABC):
    """One row of the tables, or one per budget.

    Attributes
    ----------
    name : str
    budgeted : bool
        True to run at each token budget; otherwise the method takes as many tokens as it needs.
    tokenizer : the model's
    """

    name: str
    budgeted: bool
    tokenizer: Tokenizer

    @abstractmethod
    def prepare(self, case: Case, budget: int | None) -> Ready:
        """Build the prompt of `case`.

        Raises
        ------
        DoesNotFitError
            If this method cannot take the case.
        """

    @abstractmethod
    def generate(self, ready: Sequence[Ready], new_tokens: int) -> list[str]:
        """Return greedy answers, without their given beginnings."""

    @abstractmethod
    def losses(self, ready: Sequence[Ready], targets: Sequence[Sequence[int]]) -> list[Losses]:
        """Return the NLL, in nats, of every token of each target after its prompt."""

    def same_as(self, ready: Ready) -> Hashable | None:
        """Return a key that is equal for prompts with equal results; None for a unique prompt."""
        return None


def _inner(config: Any, experts: bool) -> int:
    """Return the inner width of a layer's feed-forward part that one token goes through."""
    if not experts:
        return int(config.intermediate_size)
    width = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
    return int(width) * int(config.num_experts_per_tok)


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """Sizes of a model, and the formulas of costs.

    Attributes
    ----------
    layers : int
    layer : int
        Matrix parameters of one layer.
    attention : int
        Width of all query heads together.
    output : int
        Parameters of the output matrix.
    kv_bytes : int
        Bytes of one token's keys and values in one layer.
    """

    layers: int
    layer: int
    attention: int
    output: int
    kv_bytes: int

    @classmethod
    def of(cls, model: Any, shape: ModelShape) -> Size:
        config = text_config(model.config)
        attention, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        return cls(
            layers=shape.layers,
            layer=shape.hidden * (2 * attention + 2 * kv + 3 * _inner(config, shape.experts)),
            attention=attention,
            output=shape.hidden * int(config.vocab_size),
            kv_bytes=2 * kv * model.dtype.itemsize,
        )

    def prefill(self, running: int, injected: int = 0, injection_layers: int = 0) -> float:
        """Return the operations of a prompt of `running` tokens over `injected` KV entries."""
        tokens = self.layers * (2 * self.layer * running + 2 * self.attention * running**2)
        memory = 4 * self.attention * running * injected * injection_layers
        return float(tokens + memory + 2 * self.output)

    def windowed(self, tokens: int, window: int) -> float:
        """Return the operations of `tokens` that each see at most `window`, itself included."""
        seen = min(tokens, window) ** 2 / 2 + max(0, tokens - window) * window
        return float(
            self.layers * (2 * self.layer * tokens + 4 * self.attention * seen) + 2 * self.output
        )

    def chunks(self, tokens: int, chunk: int, layers: int) -> float:
        """Return the operations of `layers` layers over `tokens`, each chunk read alone."""
        span = min(chunk, tokens)
        return float(layers * tokens * (2 * self.layer + 2 * self.attention * span))

    def kv(self, tokens: int, layers: int | None = None) -> int:
        """Return the bytes of keys and values of `tokens` in `layers` layers (None: all)."""
        return self.kv_bytes * tokens * (self.layers if layers is None else layers)


class Prompted(Method):
    """A method whose case becomes one prompt for a :class:`~sharedllm.SharedLLM`.

    Parameters
    ----------
    llm : the model
    batch : prompts run at once
    """

    def __init__(self, llm: SharedLLM, batch: int = 8) -> None:
        self.llm, self.batch, self.tokenizer = llm, batch, llm.tokenizer
        self.size = Size.of(llm.model, llm.encoder.shape)

    def runs(self, ready: Ready) -> SharedLLM:
        """Return the model that runs this prompt."""
        return self.llm

    def same_as(self, ready: Ready) -> Hashable | None:
        """Return a key of the text; None for a prompt with injected KV."""
        if any(memory is not None for memory in ready.prompt.memory):
            return None
        return (id(self.runs(ready)), ready.prompt.text, ready.prompt.reads, ready.case.item.id)

    def generate(self, ready: Sequence[Ready], new_tokens: int) -> list[str]:
        out = [""] * len(ready)
        for llm, group in self._groups(ready):
            prepared = [_prepared(ready[i]) for i in group]
            answers = llm.generate(prepared, max_new_tokens=new_tokens, temperature=0.0)
            for i, answer in zip(group, answers, strict=True):
                out[i] = answer.text
        return out

    def losses(self, ready: Sequence[Ready], targets: Sequence[Sequence[int]]) -> list[Losses]:
        out: list[Losses] = [np.empty(0)] * len(ready)
        longest = 1 + max(map(len, targets))
        cells = longest * int(text_config(self.llm.model.config).vocab_size)
        for llm, group in self._groups(ready, most=max(1, LOGIT_CELLS // cells)):
            prompts = [_extended(ready[i].prompt, targets[i]) for i in group]
            keep = 1 + max(len(targets[i]) for i in group)
            with torch.inference_mode(), llm.encoder.lock.forward:
                logits = llm.upper.logits(prompts, keep=keep)
            for i, row in zip(group, logits, strict=True):
                out[i] = token_losses(row[-len(targets[i]) - 1 : -1], targets[i])
        return out

    def _groups(
        self, ready: Sequence[Ready], most: int | None = None
    ) -> Iterator[tuple[SharedLLM, list[int]]]:
        """Yield groups of prompts to run together: of one model and role, and similar length."""
        lengths = [r.prompt.text_tokens + r.prompt.injected_tokens for r in ready]
        models = [self.runs(r) for r in ready]
        kinds = [(id(model), r.prompt.reads) for model, r in zip(models, ready, strict=True)]
        most = min(self.batch, most or self.batch)
        group: list[int] = []
        for i in sorted(range(len(ready)), key=lambda i: (kinds[i], lengths[i])):
            wide = (len(group) + 1) * lengths[i] ** 2 > MASK_CELLS
            if group and (len(group) == most or wide or kinds[i] != kinds[group[0]]):
                yield models[group[0]], group
                group = []
            group.append(i)
        if group:
            yield models[group[0]], group


class Memory(Prompted):
    """SharedLLM: documents are remembered once, and each question selects from them.

    Parameters
    ----------
    search : fields of SearchConfig, except the budget
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
                case=case, prompt=prompt, tokens=0, flops=self.size.prefill(prompt.text_tokens)
            )
        config = llm.search.replace(**self.search, budget=budget)
        if config.scorer not in case.scores:
            case.scores[config.scorer] = llm.score(item.query, document, scorer=config.scorer)
        selection = llm.select(
            item.query, document, scores=case.scores[config.scorer], **dataclasses.asdict(config)
        )
        conversation = case.frame.conversation(document, item.query)
        try:
            made = llm.assemble(conversation, selection, case.frame.following)
        except WindowError as error:
            raise DoesNotFitError(f"beyond the trained window at {budget:,} tokens") from error
        prompt = cast(Prompt, made.prompt)  # of `llm.upper`, which other readers lack
        last = (*prompt.text[-1], *case.frame.prefix)
        prompt = dataclasses.replace(prompt, text=(*prompt.text[:-1], last))
        own = len(case.frame.head) + len(case.frame.tail)
        return Ready(
            case=case,
            prompt=prompt,
            tokens=prompt.text_tokens - own + prompt.injected_tokens,
            flops=self._flops(document, made),
            ingest_flops=self._ingest(document, config.coarse),
            stored=self._stored(document),
        )

    def _flops(self, document: Document, made: Prepared) -> float:
        """Count the prompt, and encoding the nodes that were selected for this question."""
        layers, forest = self.llm.upper.layers, document.forest
        total = self.size.prefill(made.prompt.text_tokens, made.prompt.injected_tokens, layers)
        for node in made.selection.nodes if made.selection else ():
            if not node.as_text and forest.level[node.node] > 0:
                length = int(forest.end[node.node] - forest.start[node.node])
                total += self.size.chunks(length, length, layers)
        return total

    def _ingest(self, document: Document, coarse: str) -> float:
        """Count one layer for search vectors, and the coarse level if it is used."""
        layers = 1 + (self.llm.upper.layers if coarse == "all" else 0)
        return self.size.chunks(len(document), self.llm.tree.chunk, layers)

    def _stored(self, document: Document) -> int:
        return len(document.text.encode()) + document.vectors.nbytes + document.nodes.nbytes


def token_losses(logits: torch.Tensor, wanted: Sequence[int]) -> Losses:
    """Compute the losses of the `wanted` tokens from the logits (T, V) before each."""
    target = torch.tensor(list(wanted), dtype=torch.int64, device=logits.device)
    losses = torch.nn.functional.cross_entropy(logits.float(), target, reduction="none")
    return losses.cpu().numpy().astype(np.float64)


def _prepared(ready: Ready) -> Prepared:
    """Wrap a prompt for :meth:`SharedLLM.generate`, without citations."""
    return Prepared(
        prompt=ready.prompt,
        citations=(),
        context_tokens=0,
        evidence_tokens=ready.tokens,
        selection=None,
    )


def _extended(prompt: Prompt, target: Sequence[int]) -> Prompt:
    return dataclasses.replace(prompt, text=(*prompt.text[:-1], (*prompt.text[-1], *target)))
