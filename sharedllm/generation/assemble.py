"""A conversation and its selected nodes -> a prompt with evidence and memory in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sharedllm.answer import Citation
from sharedllm.encoding.document import Document
from sharedllm.encoding.kv import InjectedKV, NodeKV, gather
from sharedllm.encoding.lower_model import NodeRequest
from sharedllm.encoding.node_encoder import NodeEncoder, request
from sharedllm.errors import WindowError
from sharedllm.generation.prompt import Conversation, part_ids
from sharedllm.injection.positions import Prompt
from sharedllm.injection.upper_model import UpperModel
from sharedllm.progress import Progress
from sharedllm.search import passages
from sharedllm.search.selection import SelectedNode, Selection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AFTER_EVIDENCE = "\n\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A question with its evidence in place, ready to be run.

    Attributes
    ----------
    prompt : Prompt
    citations : tuple of Citation
        Best score first.
    context_tokens, evidence_tokens : int
    selection : Selection or None
        None without documents.
    remember_s, search_s, encode_s : float
        Seconds spent so far.
    question : str
        What the user asked last.
    """

    prompt: Prompt
    citations: tuple[Citation, ...]
    context_tokens: int
    evidence_tokens: int
    selection: Selection | None
    remember_s: float = 0.0
    search_s: float = 0.0
    encode_s: float = 0.0
    question: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A conversation with its evidence chosen, before any KV is encoded.

    Attributes
    ----------
    conversation : Conversation
    windows : for each document, what was finely selected
    pasted : for each document, the token ids of its evidence
    injected : for each document, the nodes that enter as KV
    """

    conversation: Conversation
    windows: tuple[tuple[passages.Window, ...], ...]
    pasted: tuple[tuple[int, ...], ...]
    injected: tuple[tuple[SelectedNode, ...], ...]

    def requests(self, index: int) -> list[NodeRequest]:
        """What the lower model has to encode of the `index`-th document."""
        document = self.conversation.documents[index]
        return [request(document, node.node, node.ratio) for node in self.injected[index]]

    def memory(self, index: int, encoded: Mapping[NodeRequest, NodeKV]) -> InjectedKV | None:
        """The injected KV of the `index`-th document."""
        requests = self.requests(index)
        if not requests:
            return None
        forest = self.conversation.documents[index].forest
        chunks = [int(forest.tree[node.node]) for node in self.injected[index]]
        return gather([encoded[r] for r in requests], chunks, len(forest.roots))

    def prompt(
        self,
        memory: Sequence[InjectedKV | None],
        tokenizer: PreTrainedTokenizerBase,
        *,
        then: Sequence[int] = (),
    ) -> Prompt:
        """Stretches of text with each document's memory, then its pasted leaves, at its place.

        The token ids `then` follow the conversation. Memory never stands first: what a model reads
        first becomes its attention sink, which a node's KV cannot be.
        """
        text: list[list[int]] = [[]]
        places: list[InjectedKV | None] = []
        after = part_ids(AFTER_EVIDENCE, tokenizer)
        at = 0
        for part in self.conversation.parts:
            if not isinstance(part, Document):
                text[-1] += part_ids(part, tokenizer)
                continue
            if memory[at] is not None:
                places.append(memory[at])
                text.append([])
            text[-1] += [*self.pasted[at], *after] if self.pasted[at] else []
            at += 1
        text[-1] += then
        if places and not text[0]:
            text[0] = _sink(tokenizer)
        return Prompt(
            text=tuple(map(tuple, text)),
            memory=tuple(places),
            reads=bool(self.conversation.documents),
        )


def _sink(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What stands before memory where nothing else does: the start of a text, or a new line."""
    start = tokenizer.bos_token_id
    return part_ids("\n", tokenizer) if start is None else [int(start)]


def make_plan(
    conversation: Conversation, selection: Selection | None, tokenizer: PreTrainedTokenizerBase
) -> Plan:
    """Sort what was selected by document, and by how it enters."""
    documents = conversation.documents
    chosen: list[list[SelectedNode]] = [[] for _ in documents]
    for node in selection.nodes if selection else ():
        chosen[node.document].append(node)
    found = [tuple(passages.windows(d, n)) for d, n in zip(documents, chosen, strict=True)]
    pasted = [
        passages.pasted(d, w, passages.label(i, d, len(documents)), tokenizer)
        for i, (d, w) in enumerate(zip(documents, found, strict=True))
    ]
    return Plan(
        conversation=conversation,
        windows=tuple(found),
        pasted=tuple(map(tuple, pasted)),
        injected=tuple(tuple(n for n in nodes if not n.as_text) for nodes in chosen),
    )


class Preparer:
    """Puts evidence and memory at the documents' places."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        encoder: NodeEncoder,
        upper: UpperModel,
        window: int,
    ) -> None:
        self._tokenizer, self._encoder, self._upper = tokenizer, encoder, upper
        self._window = window

    def require_window(self, conversation: Conversation, new_tokens: int) -> None:
        """Refuse a question that leaves no room for any evidence, before searching for it.

        Raises
        ------
        WindowError
        """
        texts = [part for part in conversation.parts if not isinstance(part, Document)]
        own = sum(len(part_ids(part, self._tokenizer)) for part in texts)
        if own + new_tokens >= self._window:
            raise WindowError(
                f"the question and instructions take {own} tokens and the answer up to "
                f"{new_tokens}; the model was trained on {self._window}: "
                "shorten the question, or pass long text as context"
            )

    def prepare(
        self,
        conversation: Conversation,
        selection: Selection | None,
        new_tokens: int,
        progress: Progress = None,
    ) -> Prepared:
        """Encode what is missing and lay out the prompt.

        Raises
        ------
        WindowError
            If prompt, memory and `new_tokens` do not fit the trained window.
        """
        plan = make_plan(conversation, selection, self._tokenizer)
        documents = conversation.documents
        memory = [
            plan.memory(i, self._encoder.encode(document, plan.requests(i), progress))
            for i, document in enumerate(documents)
        ]
        prompt = plan.prompt(memory, self._tokenizer)
        self._upper.require_room(prompt, new_tokens)
        citations = [
            c for d, w in zip(documents, plan.windows, strict=True) for c in passages.cite(d, w)
        ]
        return Prepared(
            prompt=prompt,
            citations=tuple(sorted(citations, key=lambda c: -c.score)),
            context_tokens=sum(map(len, documents)),
            evidence_tokens=sum(map(len, plan.pasted)),
            selection=selection,
            remember_s=sum(d.remember_s for d in documents),
            question=conversation.query,
        )
