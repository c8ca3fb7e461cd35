"""What stands before memory."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase

from sharedllm import Document, SharedLLM
from sharedllm.generation.prompt import Conversation, Part, part_ids
from sharedllm.injection.positions import Prompt


def prompt(llm: SharedLLM, *parts: Part, coarse: str = "all") -> Prompt:
    documents = [part for part in parts if isinstance(part, Document)]
    selection = llm.select("Who kept the lamp?", documents, budget=96, coarse=coarse)
    conversation = Conversation(parts=parts, query="")
    return llm.assemble(conversation, selection, new_tokens=1).prompt


def test_a_new_line_stands_before_memory_that_would_be_first(
    tiny_llm: SharedLLM, story: Document
) -> None:
    made = prompt(tiny_llm, "", story, "Once")
    assert made.text[0] == tuple(part_ids("\n", tiny_llm.tokenizer))
    assert made.injected_tokens > 0


def test_the_start_of_a_text_where_a_model_has_one(
    tiny_llm: SharedLLM, story: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer: PreTrainedTokenizerBase = tiny_llm.tokenizer
    monkeypatch.setattr(type(tokenizer), "bos_token_id", 7, raising=False)
    assert prompt(tiny_llm, story, "Once").text[0] == (7,)


def test_nothing_is_added_behind_a_head_nor_before_text(
    tiny_llm: SharedLLM, story: Document
) -> None:
    head = prompt(tiny_llm, "Read:", story, "Once")
    assert head.text[0] == tuple(part_ids("Read:", tiny_llm.tokenizer))
    text = prompt(tiny_llm, "", story, "Once", coarse="none")
    assert text.memory == ()
    assert tiny_llm.tokenizer.decode(text.text[0]).strip().endswith("Once")
