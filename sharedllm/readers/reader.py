"""The interface of readers, and what those have in common that take evidence as text only.

Documents, memories, search, budgets and citations are those of the encoder, whoever reads. A model
that is not the encoder's own is a reader beside a *scout*: the embedded default model, which reads
documents and searches them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from sharedllm.config import GenerationConfig, SearchConfig
from sharedllm.encoding.document import Document
from sharedllm.errors import ConfigError, UnsupportedModelError
from sharedllm.generation.assemble import AnyPrompt, Plan
from sharedllm.generation.logits_processors import Row
from sharedllm.generation.prompt import Asked, Conversation
from sharedllm.generation.tool_format import ToolFormat
from sharedllm.progress import Progress
from sharedllm.text.tokens import Tokenizer

STILL = "Leaves as text, all scorers, budgets, memories, citations, streams and batches do work"


class Reader(Protocol):
    """A reader: it turns a conversation with its evidence into an answer.

    Attributes
    ----------
    name : str
        Of the model.
    identity : tuple
        Everything that its answers depend on besides prompts and settings.
    window : int
        Tokens that prompt and answer must fit.
    tokenizer : Tokenizer
        Its own, or the scout's where the model is elsewhere, for estimates.
    load_s : float
        Seconds that loading took, besides the encoder's.
    judges : bool
        It can tell before the first word that it would abstain, and asks for a second look.
    holds_grammar : bool
        It can be held to a grammar.
    shares : bool
        Several answers at once do not slow each other down.
    tool_format : ToolFormat or None
        The form of its calls of tools.
    """

    @property
    def name(self) -> str: ...
    @property
    def identity(self) -> tuple[object, ...]: ...
    @property
    def window(self) -> int: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def load_s(self) -> float: ...
    @property
    def judges(self) -> bool: ...
    @property
    def holds_grammar(self) -> bool: ...
    @property
    def shares(self) -> bool: ...
    @property
    def tool_format(self) -> ToolFormat | None: ...

    def reach(self) -> None:
        """See that it can be asked, before a long document is read for it.

        Raises
        ------
        ReaderError
        """
        ...

    def settled(self, search: SearchConfig, generation: GenerationConfig) -> SearchConfig:
        """Return the settings of search as it follows them; refuse what it cannot follow.

        Raises
        ------
        UnsupportedModelError, ConfigError
        """
        ...

    def converse(
        self, asked: Asked, documents: Sequence[Document], generation: GenerationConfig
    ) -> Conversation:
        """Put documents and messages into its chat format."""
        ...

    def room(self, conversation: Conversation, new_tokens: int) -> int:
        """Return the tokens of room for evidence, as the encoder counts them.

        Raises
        ------
        WindowError
        """
        ...

    def prompt(self, plan: Plan, new_tokens: int, progress: Progress = None) -> AnyPrompt:
        """Put the selected evidence in its place.

        Raises
        ------
        WindowError
        """
        ...

    def run(
        self, prompts: Sequence[Any], config: GenerationConfig, rows: list[Row]
    ) -> Iterator[tuple[int, str]]:
        """Fill `rows`, yielding (index of the row, new text) as it comes.

        One pair is ``(-1, "")``, once the first prompt is read. Text is empty where a row thinks.
        """
        ...


def text_only(
    name: str, why: str, search: SearchConfig, generation: GenerationConfig
) -> SearchConfig:
    """Return `search` with leaves as text, which is what "auto" is here.

    Settings that need KV, or the probabilities of an adapter's answers, are refused.

    Raises
    ------
    UnsupportedModelError
    """
    asked = {
        "leaves": search.leaves if search.leaves == "kv" else None,
        "coarse": search.coarse if search.coarse != "none" else None,
        "refusal_margin": generation.refusal_margin or None,
        "graphs": generation.graphs or None,
    }
    for option, value in asked.items():
        if value is not None:
            raise UnsupportedModelError(
                f"{option} is {value!r}, which {name!r} cannot follow: {why}. Leave it out. {STILL}"
            )
    return search.replace(leaves="text")


def require_unused(name: object, why: str, **given: object) -> None:
    """Refuse options that do nothing with a reader; None was not given.

    Raises
    ------
    UnsupportedModelError
    """
    for option, value in given.items():
        if value is not None:
            raise UnsupportedModelError(
                f"{option} is {value!r}, which does nothing with {str(name)!r}: {why}. Leave it out"
            )


def require_no_window(window: int | None) -> None:
    """Refuse a window for the encoder's own model.

    Raises
    ------
    ConfigError
    """
    if window is not None:
        raise ConfigError(
            f"reader_window is {window}, and the model that reads the documents answers, whose "
            "window is what it was trained on; leave it out, or give a reader"
        )
