"""A conversation and its selected nodes -> a prompt with evidence and memory in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sharedllm.encoding.document import Document
from sharedllm.encoding.document_encoder import DocumentEncoder
from sharedllm.encoding.kv import InjectedKV, NodeKV, gather
from sharedllm.encoding.lower_model import NodeRequest
from sharedllm.errors import WindowError
from sharedllm.generation.prompt import Conversation, part_ids
from sharedllm.injection.positions import Prompt
from sharedllm.progress import Progress
from sharedllm.search import citations
from sharedllm.search.citations import Citation
from sharedllm.search.selection import SelectedNode, Selection
from sharedllm.text.tokens import Tokenizer

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
    windows: tuple[tuple[citations.Window, ...], ...]
    pasted: tuple[tuple[int, ...], ...]
    injected: tuple[tuple[SelectedNode, ...], ...]

    def requests(self, index: int) -> list[NodeRequest]:
        """The nodes of the `index`-th document that the lower model has to encode."""
        document = self.conversation.documents[index]
        return [document.request(node.node, node.ratio) for node in self.injected[index]]

    def encode(
        self, encoder: DocumentEncoder, progress: Progress = None
    ) -> list[InjectedKV | None]:
        """Encode the injected KV of every document, in their order."""
        return [
            self.memory(i, encoder.encode(document, self.requests(i), progress))
            for i, document in enumerate(self.conversation.documents)
        ]

    def memory(self, index: int, encoded: Mapping[NodeRequest, NodeKV]) -> InjectedKV | None:
        """The injected KV of the `index`-th document."""
        requests = self.requests(index)
        if not requests:
            return None
        forest = self.conversation.documents[index].forest
        chunks = [int(forest.tree[node.node]) for node in self.injected[index]]
        return gather([encoded[r] for r in requests], chunks, len(forest.roots))

    def citations(self) -> tuple[Citation, ...]:
        """Cite what was selected for its score, best first."""
        pairs = zip(self.conversation.documents, self.windows, strict=True)
        found = [citation for document, own in pairs for citation in citations.cite(document, own)]
        return tuple(sorted(found, key=lambda citation: -citation.score))

    def prompt(
        self,
        memory: Sequence[InjectedKV | None],
        tokenizer: Tokenizer,
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


def _sink(tokenizer: Tokenizer) -> list[int]:
    """What stands before memory where nothing else does: the start of a text, or a new line."""
    start = tokenizer.bos_token_id
    return part_ids("\n", tokenizer) if start is None else [int(start)]


def make_plan(
    conversation: Conversation, selection: Selection | None, tokenizer: Tokenizer
) -> Plan:
    """Sort what was selected by document, and by how it enters."""
    documents = conversation.documents
    chosen: list[list[SelectedNode]] = [[] for _ in documents]
    for node in selection.nodes if selection else ():
        chosen[node.document].append(node)
    found = [tuple(citations.windows(d, n)) for d, n in zip(documents, chosen, strict=True)]
    pasted = [
        citations.pasted(d, w, citations.label(i, d, len(documents)), tokenizer)
        for i, (d, w) in enumerate(zip(documents, found, strict=True))
    ]
    return Plan(
        conversation=conversation,
        windows=tuple(found),
        pasted=tuple(map(tuple, pasted)),
        injected=tuple(tuple(n for n in nodes if not n.as_text) for nodes in chosen),
    )


def require_window(
    conversation: Conversation, tokenizer: Tokenizer, window: int, new_tokens: int
) -> None:
    """Refuse a question that leaves no room for any evidence, before searching for it.

    Parameters
    ----------
    window : int
        Tokens that the model was trained on.

    Raises
    ------
    WindowError
    """
    texts = [part for part in conversation.parts if not isinstance(part, Document)]
    own = sum(len(part_ids(part, tokenizer)) for part in texts)
    if own + new_tokens >= window:
        raise WindowError(
            f"the question and instructions take {own} tokens and the answer up to "
            f"{new_tokens}; the model was trained on {window}: "
            "shorten the question, or pass long text as context"
        )
