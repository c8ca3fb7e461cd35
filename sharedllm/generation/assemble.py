"""A conversation and its selected nodes -> a prompt with evidence and injected KV in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sharedllm.encoding.document import Document
from sharedllm.encoding.document_encoder import DocumentEncoder
from sharedllm.encoding.kv import InjectedKV, NodeKV, gather
from sharedllm.encoding.lower_model import NodeRequest
from sharedllm.errors import WindowError
from sharedllm.generation.prompt import Conversation, Literal, part_ids
from sharedllm.generation.thoughts import opens_thought
from sharedllm.injection.positions import Prompt
from sharedllm.progress import Progress
from sharedllm.search import citations
from sharedllm.search.citations import Citation
from sharedllm.search.selection import SelectedNode, Selection
from sharedllm.text.tokens import Tokenizer

AFTER_EVIDENCE = "\n\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatPrompt:
    """A prompt for a model elsewhere: chat messages of plain text, as OpenAI spells them.

    Attributes
    ----------
    messages, tools : tuple of mapping
    tool_required : bool
        The answer has to call a tool.
    text_tokens : int
        Counted by the tokenizer that the documents are read with.
    reads : bool
        True if there are documents.
    """

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_required: bool = False
    text_tokens: int = 0
    reads: bool = False

    @property
    def injected_tokens(self) -> int:
        return 0


AnyPrompt = Prompt | ChatPrompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A question with its evidence in place, ready to be decoded.

    Attributes
    ----------
    prompt : Prompt or ChatPrompt
    citations : tuple of Citation
        In falling order of score.
    context_tokens, evidence_tokens : int
    selection : Selection or None
        None without documents.
    remember_s, search_s, encode_s : float
        Seconds spent so far.
    question : str
        The question in the last user message.
    looks : int
        Selections made so far; 2 after a second, larger look.
    scope_reason : str
        Why passages are read rather than the whole.
    again : callable or None
        Makes a second, larger look, for when the model is unsure after this one; None if there is
        none to make.
    """

    prompt: AnyPrompt
    citations: tuple[Citation, ...]
    context_tokens: int
    evidence_tokens: int
    selection: Selection | None
    remember_s: float = 0.0
    search_s: float = 0.0
    encode_s: float = 0.0
    question: str = ""
    looks: int = 1
    scope_reason: str = ""
    again: Callable[[], Prepared] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A conversation with its evidence selected, before any KV is encoded.

    Attributes
    ----------
    conversation : Conversation
    windows : for each document, its windows of evidence
    pasted : for each document, the token ids of its evidence that enters as text
    injected : for each document, the nodes that enter as KV
    """

    conversation: Conversation
    windows: tuple[tuple[citations.Window, ...], ...]
    pasted: tuple[tuple[int, ...], ...]
    injected: tuple[tuple[SelectedNode, ...], ...]

    def requests(self, index: int) -> list[NodeRequest]:
        """Return the requests for the injected nodes of the `index`-th document."""
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
        """Return the injected KV of the `index`-th document; None if it has none."""
        requests = self.requests(index)
        if not requests:
            return None
        forest = self.conversation.documents[index].forest
        chunks = [int(forest.tree[node.node]) for node in self.injected[index]]
        return gather([encoded[r] for r in requests], chunks, len(forest.roots))

    def citations(self) -> tuple[Citation, ...]:
        """Return the citations of all windows, in falling order of score."""
        pairs = zip(self.conversation.documents, self.windows, strict=True)
        query = self.conversation.query
        found = [one for document, own in pairs for one in citations.cite(document, own, query)]
        return tuple(sorted(found, key=lambda citation: -citation.score))

    def prompt(
        self,
        memory: Sequence[InjectedKV | None],
        tokenizer: Tokenizer,
        *,
        then: Sequence[int] = (),
    ) -> Prompt:
        """Build the prompt: at each document's place its injected KV, then its pasted leaves.

        The token ids `then` follow the conversation. Injected KV is never the first thing in a
        prompt: the first token becomes the model's attention sink, which a node's KV cannot be.
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
            thinking=self.ends_in_thought,
        )

    @property
    def ends_in_thought(self) -> bool:
        """True if the chat template has opened a thought at the end."""
        last = self.conversation.parts[-1]
        return isinstance(last, str) and opens_thought(last)

    def texts(self) -> list[str]:
        """Return each document's evidence as text, empty where nothing was selected."""
        documents = self.conversation.documents
        return [
            citations.paste_text(d, w, citations.heading_of(i, d, len(documents)))
            for i, (d, w) in enumerate(zip(documents, self.windows, strict=True))
        ]


def _sink(tokenizer: Tokenizer) -> list[int]:
    """Return the tokens before KV that would come first: begin-of-text, or else a line feed."""
    start = tokenizer.bos_token_id
    return part_ids("\n", tokenizer) if start is None else [int(start)]


def make_plan(
    conversation: Conversation, selection: Selection | None, tokenizer: Tokenizer
) -> Plan:
    """Sort the selected nodes by document, and into text and KV."""
    documents = conversation.documents
    chosen: list[list[SelectedNode]] = [[] for _ in documents]
    for node in selection.nodes if selection else ():
        chosen[node.document].append(node)
    found = [tuple(citations.join_windows(d, n)) for d, n in zip(documents, chosen, strict=True)]
    pasted = [
        citations.paste(d, w, citations.heading_of(i, d, len(documents)), tokenizer)
        for i, (d, w) in enumerate(zip(documents, found, strict=True))
    ]
    return Plan(
        conversation=conversation,
        windows=tuple(found),
        pasted=tuple(map(tuple, pasted)),
        injected=tuple(tuple(n for n in nodes if not n.as_text) for nodes in chosen),
    )


def require_window(
    conversation: Conversation,
    tokenizer: Tokenizer,
    window: int,
    new_tokens: int,
    limit: str = "the model was trained on",
) -> int:
    """Return the tokens of room for evidence; refuse a question that leaves none.

    Parameters
    ----------
    window : int
        Tokens that prompt and answer must fit.
    limit : str
        What gives that number, for a message.

    Raises
    ------
    WindowError
    """
    texts = [part for part in conversation.parts if not isinstance(part, Document)]
    own = sum(len(part_ids(part, tokenizer)) for part in texts)
    if own + new_tokens < window:
        return window - own - new_tokens
    room = f"the answer takes up to {new_tokens} and {limit} {window}"
    last = len(part_ids(Literal(conversation.last), tokenizer)) if conversation.last.strip() else 0
    if conversation.messages > 1 and last + new_tokens < window and 2 * last < own:
        left = (window - new_tokens) * 3 // 4  # counters of frameworks leave out the turns' marks
        raise WindowError(
            f"the history is too long: its {conversation.messages} messages take {own} tokens, "
            f"the last user message {last} of them; {room}: leave out the oldest messages. In "
            f"LangChain trim_messages(messages, max_tokens={left}, token_counter=llm, "
            "start_on='human', include_system=True) does it, in LlamaIndex "
            f"ChatMemoryBuffer.from_defaults(token_limit={left})"
        )
    raise WindowError(
        f"the question and instructions take {own} tokens; {room}: shorten the question, or pass "
        "long text as context"
    )
