"""Examples -> prompts with randomly varied selections -> losses.

:class:`Chooser` needs no model and runs in data workers. Encoding and losses run on the device, all
nodes of a batch at once, with gradients through both roles.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div
from torch.utils.checkpoint import checkpoint

from sharedllm.config import SearchConfig, TreeConfig
from sharedllm.encoding.document import Document
from sharedllm.encoding.kv import InjectedKV
from sharedllm.encoding.lower_model import LowerModel, NodeRequest
from sharedllm.generation.assemble import Plan, make_plan
from sharedllm.generation.prompt import ABSENT, Conversation, Message, converse
from sharedllm.hf.lora import acting, acting_role
from sharedllm.search.bm25 import BM25
from sharedllm.search.citations import complete_sentences
from sharedllm.search.query import Query
from sharedllm.search.selection import Selection, select
from sharedllm.shared_llm import SharedLLM
from sharedllm.text.tokens import Tokenizer, tokenize
from sharedllm.training.examples import NO_VECTORS, Example, leaves_of, make_document
from sharedllm.training.train_config import SelectionConfig

PADDING = 8192  # tokens of padding that cost less than another pass
OVERHEAD = 4  # tokens that a pasted window costs besides its own
OWN = 0.5  # share of examples in the library's own prompt, if others are given


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One example, ready to be encoded.

    Attributes
    ----------
    kind : str
        The task and the form of its leaves, such as "qa/kv", by which losses are logged.
    plan : Plan
    target : tuple of int
        The tokens to predict, at the end of the running text.
    lesson : Plan or None
        The same leaves as text, without a coarse level: the prompt of the teacher.
    """

    kind: str
    plan: Plan
    target: tuple[int, ...]
    lesson: Plan | None = None

    @property
    def tokens(self) -> int:
        """Approximate number of tokens that both models read."""
        encoded = sum(request.end - request.start for request in self.plan.requests(0))
        return encoded + len(self.plan.pasted[0]) + len(self.target)


class Chooser:
    """Makes a :class:`Choice` of each example, with settings drawn at random."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        tree: TreeConfig,
        config: SelectionConfig,
        end_id: int,
        seed: int,
        *,
        lead: str = "",
        lessons: bool = False,
    ) -> None:
        self._lead = lead
        self._tokenizer, self._tree, self._config = tokenizer, tree, config
        self._end_id, self._lessons = end_id, lessons
        self._rng = random.Random(seed)
        self._numpy = np.random.default_rng(seed)

    def __call__(self, example: Example) -> Choice:
        document = self._read(example.past)
        settings = self._settings(example)
        leaves = [leaves_of(document, *span) for span in example.evidence]
        selection = self._selection(example, document, leaves, settings)
        answer = example.answer
        if leaves and not _fine(selection, document).intersection(np.concatenate(leaves).tolist()):
            answer = ABSENT  # the evidence was not selected: an answer would be made up
        lead = self._lead if example.question else ""
        target = tokenize(lead + answer, self._tokenizer).ids.tolist()
        if example.question:
            conversation = ask(
                example.question, document, self._tokenizer, self._config.prompts, self._rng
            )
            target.append(self._end_id)
        else:  # language modelling: the text continues its past
            conversation = Conversation(parts=("", document, ""), query="")
        lesson = None
        if self._lessons and settings.leaves == "kv":
            lesson = make_plan(conversation, keep_text(selection), self._tokenizer)
        return Choice(
            kind=f"{example.kind}/{settings.leaves}",
            plan=make_plan(conversation, selection, self._tokenizer),
            target=tuple(target),
            lesson=lesson,
        )

    def _read(self, text: str) -> Document:
        """Make a document; half of them have their nodes split with noise."""
        noise = self._config.noise if self._rng.random() < 0.5 else 0.0
        return make_document(text, self._tokenizer, self._tree, noise=noise, rng=self._numpy)

    def _selection(
        self,
        example: Example,
        document: Document,
        evidence: Sequence[NDArray[np.int32]],
        settings: SearchConfig,
    ) -> Selection:
        """Select by noisy BM25 with the evidence near the front; without a question by recency.

        The evidence is not always ranked first. The best window is pasted last, and a model that
        learned to look only there would fail when search ranks another window higher.
        """
        scores = self._scores(example, document)
        if evidence and self._rng.random() >= self._config.miss:
            ranked = np.sort(scores)[::-1]
            share = 1 - settings.coarse_share if settings.coarse == "all" else 1
            room = share * settings.fixed_budget / (self._tree.leaf + OVERHEAD)
            for leaves in evidence:
                rank = int(room * self._rng.random())
                scores[leaves] = ranked[min(rank, len(ranked) - 1)] + 1e-3
            first = self._select(document, scores, settings)
            if _fine(first, document).issuperset(np.concatenate(evidence).tolist()):
                return first
            scores[np.concatenate(evidence)] = ranked[0] + 100
        return self._select(document, scores, settings)

    def _select(
        self, document: Document, scores: NDArray[np.float32], settings: SearchConfig
    ) -> Selection:
        return select(
            [document.forest],
            [document.forest.from_leaves(scores)],
            settings,
            self._tree,
            overhead=[OVERHEAD],
            widen=lambda _, node: complete_sentences(document, node, settings.sentences),
        )

    def _scores(self, example: Example, document: Document) -> NDArray[np.float32]:
        leaves = len(document.forest.leaves)
        if not example.question:
            return np.arange(leaves, dtype=np.float32)
        query = Query(text=example.question, ids=np.empty(0, np.int32), vectors=NO_VECTORS)
        scores: NDArray[np.float32] = BM25().leaf_scores(query, [document])[0]
        return scores + self._numpy.gumbel(0.0, 0.5, leaves).astype(np.float32)

    def _settings(self, example: Example) -> SearchConfig:
        least, most = self._config.budget
        budget = max(self._tree.leaf + OVERHEAD, int(least * (most / least) ** self._rng.random()))
        return SearchConfig(
            budget=budget,
            leaves=self._rng.choice(self._config.leaves),
            coarse="all" if self._rng.random() < self._config.coarse else "none",
            coarse_share=self._rng.uniform(0.2, 0.6),
            scorer="bm25" if example.question else "recency",
        )


def ask(
    question: str,
    document: Document,
    tokenizer: Tokenizer,
    prompts: Sequence[tuple[str, str]],
    rng: random.Random,
) -> Conversation:
    """Ask `question` about `document` in the library's own prompt, or in one of `prompts`."""
    if not prompts or rng.random() < OWN:
        return converse(question, [document], tokenizer)
    system, user = rng.choice(prompts)
    turns = [("system", system), ("user", user)] if system else [("user", user)]
    messages = [
        {"role": role, "content": fill(content, question, [document])} for role, content in turns
    ]
    return converse(messages, (), tokenizer)


def fill(content: str, question: str, documents: Sequence[Document]) -> list[Message]:
    """Return the parts of a message: `content` with {documents} and {question} filled in."""
    out: list[Message] = []
    for at, text in enumerate(content.split("{documents}")):
        if at:
            out += [{"type": "document", "document": document} for document in documents]
        if text:
            out.append({"type": "text", "text": text.replace("{question}", question)})
    return out


def keep_text(selection: Selection) -> Selection:
    """Return the fine nodes of a selection alone, as text."""
    nodes = [
        dataclasses.replace(node, as_text=True, ratio=1.0) for node in selection.nodes if node.fine
    ]
    return dataclasses.replace(selection, nodes=tuple(nodes))


def _fine(selection: Selection, document: Document) -> set[int]:
    """Return the ranks of the leaves that were selected as fine nodes."""
    starts = [document.forest.start[node.node] for node in selection.nodes if node.fine]
    return set(document.leaf_of_token[starts].tolist())


@contextmanager
def layers_recomputed(model: Any) -> Iterator[None]:
    """Checkpoint every layer of `model` in the block: recompute activations in the backward pass.

    transformers' own gradient checkpointing (5.23) drops the cache to which the lower model's
    layers hand their keys and values. The role is set again for the recomputation.
    """

    def run(forward: Any, *args: Any, **kwargs: Any) -> Any:
        role = acting_role()

        def contexts() -> tuple[Any, Any]:
            return nullcontext(), acting(role)

        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    layers = model.get_decoder().layers
    before = [layer.__dict__.get("forward") for layer in layers]  # set by accelerate, perhaps
    for layer in layers:
        layer.forward = partial(run, layer.forward)
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            if own is None:
                del layer.forward  # uncovers the method of the class
            else:
                layer.forward = own


def encode(lower: LowerModel, choices: Sequence[Choice]) -> list[InjectedKV | None]:
    """Encode the nodes of all examples in common batches, with gradients; one KV per example."""
    ids: list[NDArray[np.int32]] = []
    shifted: list[list[NodeRequest]] = []
    offset = 0
    for choice in choices:
        (document,) = choice.plan.conversation.documents
        requests = choice.plan.requests(0)
        shifted.append(
            [dataclasses.replace(r, start=r.start + offset, end=r.end + offset) for r in requests]
        )
        ids.append(document.tokens.ids)
        offset += len(document)
    wanted = [r for requests in shifted for r in requests]
    encoded = dict(lower.encode(np.concatenate(ids), wanted))
    out = []
    for choice, own_requests in zip(choices, shifted, strict=True):
        pairs = zip(choice.plan.requests(0), own_requests, strict=True)
        out.append(choice.plan.memory(0, {request: encoded[s] for request, s in pairs}))
    return out


def losses(
    llm: SharedLLM,
    choices: Sequence[Choice],
    *,
    checkpointing: bool = False,
    distil: float = 0.0,
) -> Tensor:
    """Compute the mean cross-entropy over each example's target tokens, in nats; shape (B,).

    `distil` is the weight of an added KL divergence from the predictions of the same weights given
    the leaves as text, so that reading text teaches reading KV.
    """
    plans = [choice.plan for choice in choices]
    with layers_recomputed(llm.model) if checkpointing else nullcontext():
        predicted = _predicted(llm, choices, plans, encode(llm.encoder.lower, choices))
    out = []
    for choice, logits in zip(choices, predicted, strict=True):
        # without a prompt before it (language modelling) the first token is not predicted
        target = torch.tensor(choice.target[-len(logits) :], device=logits.device)
        out.append(cross_entropy(logits, target))
    if distil:
        taught = [i for i, choice in enumerate(choices) if choice.lesson]
        with torch.no_grad():
            some = [choices[i] for i in taught]
            lessons = [choice.lesson for choice in some if choice.lesson]
            teachers = _predicted(llm, some, lessons, [None] * len(some))
        for i, teacher in zip(taught, teachers, strict=True):
            both = min(len(predicted[i]), len(teacher))  # without a prompt one is shorter
            student, teacher = (x[-both:].log_softmax(dim=-1) for x in (predicted[i], teacher))
            gap = kl_div(student, teacher, log_target=True, reduction="batchmean")
            out[i] = out[i] + distil * gap
    return torch.stack(out)


def _predicted(
    llm: SharedLLM,
    choices: Sequence[Choice],
    plans: Sequence[Plan],
    memory: Sequence[InjectedKV | None],
) -> list[Tensor]:
    """Return float32 logits of each choice's target tokens after its plan."""
    # the last token of a target is not needed to predict another
    prompts = [
        plan.prompt([entry], llm.tokenizer, then=choice.target[:-1])
        for choice, plan, entry in zip(choices, plans, memory, strict=True)
    ]
    out: dict[int, Tensor] = {}
    for group in group_by_length([prompt.text_tokens for prompt in prompts]):
        keep = max(len(choices[i].target) for i in group)
        rows = llm.upper.logits([prompts[i] for i in group], keep=keep)
        for i, row in zip(group, rows, strict=True):
            # logits before the KV may be further back than `keep`
            predicted = min(len(choices[i].target), len(prompts[i].text[-1]))
            out[i] = row[-predicted:].float()
    return [out[i] for i in range(len(choices))]


def group_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Group indices by falling length, so that padding to the longest costs little."""
    groups: list[list[int]] = []
    padding = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if groups:
            padding += lengths[groups[-1][0]] - lengths[index]
        if not groups or padding > PADDING:
            groups.append([])
            padding = 0
        groups[-1].append(index)
    return groups
