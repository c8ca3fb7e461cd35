"""A reader that says what a function makes of the text that it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from sharedllm import Document, GenerationConfig, SearchConfig, SharedLLM
from sharedllm.generation.assemble import ChatPrompt, Plan, require_window
from sharedllm.generation.decoding import UNSURE
from sharedllm.generation.logits_processors import Row
from sharedllm.generation.prompt import ABSENT, Asked, Conversation, converse
from sharedllm.progress import Progress
from tests.models import shared

Say = Callable[[str, str], str]  # question, text -> answer


class SayingReader:
    """A reader in the place of a model; `asked` holds (question, text) of all prompts."""

    name, identity, window, load_s = "saying", ("saying",), 4096, 0.0
    holds_grammar = shares = False
    tool_format = None

    def __init__(self, tokenizer: Any, say: Say, *, judges: bool = False) -> None:
        self.tokenizer, self._say, self.judges = tokenizer, say, judges
        self.asked: list[tuple[str, str]] = []

    def reach(self) -> None:
        pass

    def settled(self, search: SearchConfig, generation: GenerationConfig) -> SearchConfig:
        return search

    def converse(
        self, asked: Asked, documents: Sequence[Document], generation: GenerationConfig
    ) -> Conversation:
        return converse(asked, documents, None)

    def room(self, conversation: Conversation, new_tokens: int) -> int:
        return require_window(conversation, self.tokenizer, self.window, new_tokens)

    def prompt(self, plan: Plan, new_tokens: int, progress: Progress = None) -> ChatPrompt:
        text = "\n".join(plan.texts())
        message = {"question": plan.conversation.question, "text": text}
        return ChatPrompt(messages=(message,), text_tokens=len(text), reads=True)

    def run(
        self, prompts: Sequence[ChatPrompt], config: GenerationConfig, rows: list[Row]
    ) -> Iterator[tuple[int, str]]:
        for index, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
            (message,) = prompt.messages
            self.asked.append((message["question"], message["text"]))
            text = self._say(message["question"], message["text"])
            if index == 0:
                yield -1, ""
            if row.tentative and text == ABSENT:
                row.finish_reason = UNSURE
                continue
            row.ids, row.text, row.finish_reason = [0] * len(text.split()), text, "stop"
            yield index, text


@pytest.fixture
def saying() -> Callable[..., SharedLLM]:
    """Make a model whose reader says what a function does."""

    def make(say: Say, **options: Any) -> SharedLLM:
        encoder = shared("llama").encoder
        return SharedLLM(encoder, reader=SayingReader(encoder.tokenizer, say, **options))

    return make
