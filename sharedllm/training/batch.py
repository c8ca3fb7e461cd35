"""Examples -> prompts with evidence chosen, as training varies it; and their loss.

Choosing needs no model and runs in data workers; encoding and the loss run on the device, all
nodes of a batch in one go, with gradients through both roles.
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
from sharedllm.search.citations import widened
from sharedllm.search.query import Query
from sharedllm.search.scorers import BM25
from sharedllm.search.selection import Selection, select
from sharedllm.shared_llm import SharedLLM
from sharedllm.text.tokens import Tokenizer, tokenize
from sharedllm.training.examples import NO_VECTORS, Example, leaves_of, unread
from sharedllm.training.train_config import SelectionConfig

PADDING = 8192  # tokens of padding that cost less than a pass of their own
OVERHEAD = 4  # tokens a pasted window costs beside its own
OWN = 0.5  # of the examples, in the library's own prompt where others are given


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One example, ready to be encoded.

    Attributes
    ----------
    kind : str
        The task and how its evidence enters, such as "qa/kv": what losses are logged by.
    plan : Plan
    target : tuple of int
        The tokens that are predicted; they end the running text.
    lesson : Plan or None
        The same leaves as text, without the rest: what a teacher reads.
    """

    kind: str
    plan: Plan
    target: tuple[int, ...]
    lesson: Plan | None = None

    @property
    def tokens(self) -> int:
        """About how many tokens both models read."""
        encoded = sum(request.end - request.start for request in self.plan.requests(0))
        return encoded + len(self.plan.pasted[0]) + len(self.target)


class Chooser:
    """Makes a :class:`Choice` of each example, drawing its settings anew."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        tree: TreeConfig,
        config: SelectionConfig,
        end_id: int,
        seed: int,
        *,
        lessons: bool = False,
    ) -> None:
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
            answer = ABSENT  # nothing of it can be read: to answer would be to make it up
        target = tokenize(answer, self._tokenizer).ids.tolist()
        if example.question:
            conversation = asked(
                example.question, document, self._tokenizer, self._config.prompts, self._rng
            )
            target.append(self._end_id)
        else:  # language modelling: the text goes on behind its past
            conversation = Conversation(parts=("", document, ""), query="")
        lesson = None
        if self._lessons and settings.leaves == "kv":
            lesson = make_plan(conversation, _as_text(selection), self._tokenizer)
        return Choice(
            kind=f"{example.kind}/{settings.leaves}",
            plan=make_plan(conversation, selection, self._tokenizer),
            target=tuple(target),
            lesson=lesson,
        )

    def _read(self, text: str) -> Document:
        """A document; half of them have their nodes split with noise."""
        noise = self._config.noise if self._rng.random() < 0.5 else 0.0
        return unread(text, self._tokenizer, self._tree, noise=noise, rng=self._numpy)

    def _selection(
        self,
        example: Example,
        document: Document,
        evidence: Sequence[NDArray[np.int32]],
        settings: SearchConfig,
    ) -> Selection:
        """By noisy BM25, the evidence somewhere near the front; without a question the end.

        The evidence is not always first: the best window is pasted last, and a model that has
        learned to look there alone is lost when search ranks another one higher.
        """
        scores = self._scores(example, document)
        if evidence and self._rng.random() >= self._config.miss:
            ranked = np.sort(scores)[::-1]
            share = 1 - settings.coarse_share if settings.coarse == "all" else 1
            room = share * settings.budget / (self._tree.leaf + OVERHEAD)
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
            widen=lambda _, node: widened(document, node, settings.sentences),
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


def asked(
    question: str,
    document: Document,
    tokenizer: Tokenizer,
    prompts: Sequence[tuple[str, str]],
    rng: random.Random,
) -> Conversation:
    """`question` about `document` in the library's own prompt, or in one of `prompts`."""
    if not prompts or rng.random() < OWN:
        return converse(question, [document], tokenizer)
    system, user = rng.choice(prompts)
    turns = [("system", system), ("user", user)] if system else [("user", user)]
    messages = [
        {"role": role, "content": _parts(content, question, document)} for role, content in turns
    ]
    return converse(messages, (), tokenizer)


def _parts(content: str, question: str, document: Document) -> list[Message]:
    out: list[Message] = []
    for at, text in enumerate(content.split("{documents}")):
        if at:
            out.append({"type": "document", "document": document})
        if text:
            out.append({"type": "text", "text": text.replace("{question}", question)})
    return out


def _as_text(selection: Selection) -> Selection:
    """Its finely selected nodes alone, to be pasted."""
    nodes = [
        dataclasses.replace(node, as_text=True, ratio=1.0) for node in selection.nodes if node.fine
    ]
    return dataclasses.replace(selection, nodes=tuple(nodes))


def _fine(selection: Selection, document: Document) -> set[int]:
    """Ranks of the leaves that were finely selected."""
    starts = [document.forest.start[node.node] for node in selection.nodes if node.fine]
    return set(document.leaf_of_token[starts].tolist())


@contextmanager
def layers_recomputed(model: Any) -> Iterator[None]:
    """Checkpoint every layer of `model` that runs in the block, under the role that acts then.

    Activations are computed again in the backward pass, not kept. Transformers' own way would do
    for the upper model; it drops the cache to which the lower model's layers hand their keys and
    values. What is taken out of a layer on the way has gradients as its output has.
    """

    def run(forward: Any, *args: Any, **kwargs: Any) -> Any:
        role = acting_role()

        def contexts() -> tuple[Any, Any]:
            return nullcontext(), acting(role)

        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    layers = model.get_decoder().layers
    before = [layer.__dict__.get("forward") for layer in layers]  # accelerate's, if there is one
    for layer in layers:
        layer.forward = partial(run, layer.forward)
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            if own is None:
                del layer.forward  # the class' is there again
            else:
                layer.forward = own


def encode(lower: LowerModel, choices: Sequence[Choice]) -> list[InjectedKV | None]:
    """Encode the nodes of all examples in common batches, with gradients; one memory each."""
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
    """Mean cross-entropy over each example's target tokens, in nats; shape (B,).

    With `distil` the divergence from what the same weights predict from the lesson is added, so
    many times: reading KV is taught by reading text.
    """
    plans = [choice.plan for choice in choices]
    with layers_recomputed(llm.model) if checkpointing else nullcontext():
        predicted = _predicted(llm, choices, plans, encode(llm.encoder.lower, choices))
    out = []
    for choice, logits in zip(choices, predicted, strict=True):
        # without a prompt in front (language modelling) nothing predicts the first token
        target = torch.tensor(choice.target[-len(logits) :], device=logits.device)
        out.append(cross_entropy(logits, target))
    if distil:
        taught = [i for i, choice in enumerate(choices) if choice.lesson]
        with torch.no_grad():
            some = [choices[i] for i in taught]
            lessons = [choice.lesson for choice in some if choice.lesson]
            right = _predicted(llm, some, lessons, [None] * len(some))
        for i, teacher in zip(taught, right, strict=True):
            both = min(len(predicted[i]), len(teacher))  # without a prompt in front one is shorter
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
    """Logits, float32, of each choice's target tokens after its plan."""
    # the last token of a target predicts nothing that is asked for
    prompts = [
        plan.prompt([entry], llm.tokenizer, then=choice.target[:-1])
        for choice, plan, entry in zip(choices, plans, memory, strict=True)
    ]
    out: dict[int, Tensor] = {}
    for group in alike([prompt.text_tokens for prompt in prompts]):
        keep = max(len(choices[i].target) for i in group)
        rows = llm.upper.logits([prompts[i] for i in group], keep=keep)
        for i, row in zip(group, rows, strict=True):
            # what stands before memory may lie further back than is kept
            predicted = min(len(choices[i].target), len(prompts[i].text[-1]))
            out[i] = row[-predicted:].float()
    return [out[i] for i in range(len(choices))]


def alike(lengths: Sequence[int]) -> list[list[int]]:
    """Indices by falling length, in groups that are padded to their longest with little waste."""
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
