"""LlamaIndexSharedLLM as LlamaIndex's own code uses a model."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    CitableBlock,
    DocumentBlock,
    ImageBlock,
    TextBlock,
)
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.prompts import PromptTemplate
from pydantic import ValidationError

from sharedllm import SharedLLM, SharedLLMError, TreeMemory, loaded_for
from sharedllm_integrations.errors import (
    AnswerTimeoutError,
    ContentError,
    DocumentReferenceError,
    RequestError,
    SetupError,
)
from sharedllm_integrations.llamaindex import LlamaIndexSharedLLM
from sharedllm_integrations.llamaindex.messages import request_messages
from sharedllm_integrations.resolution import CAPACITY
from tests.integrations.llamaindex.helpers import LONG, QUESTION, listening, model
from tests.integrations.prompts import enclosed, gone, reference
from tests.texts import FERRY, STORY

PROMPT = f"{enclosed(FERRY)}\n\n{QUESTION}"
ROLES = ("user", "assistant", "user")


@pytest.fixture
def ours(llm: SharedLLM) -> LlamaIndexSharedLLM:
    return model(llm)


def message(text: str, role: str = "user") -> ChatMessage:
    return ChatMessage(role=role, content=text)


def test_metadata_promises_the_trees_capacity(ours: LlamaIndexSharedLLM) -> None:
    assert ours.metadata.context_window == CAPACITY
    assert ours.metadata.num_output == 6
    assert ours.metadata.is_chat_model
    assert ours.metadata.is_function_calling_model
    assert ours.class_name() == "LlamaIndexSharedLLM"


def test_nothing_is_loaded_before_it_is_needed() -> None:
    unknown = LlamaIndexSharedLLM(model="no-such-model-anywhere")
    assert unknown.metadata.model_name == "no-such-model-anywhere"
    assert unknown.to_payload()["context_window"] == CAPACITY
    with pytest.raises(SharedLLMError):
        unknown.complete("Hello")


def test_all_eight_ways_agree(ours: LlamaIndexSharedLLM) -> None:
    whole = ours.complete(PROMPT)
    pieces = list(ours.stream_complete(PROMPT))
    chat = ours.chat([message(PROMPT)])
    parts = list(ours.stream_chat([message(PROMPT)]))
    assert whole.text
    assert pieces[-1].text.strip() == whole.text
    assert "".join(piece.delta or "" for piece in pieces).strip() == whole.text
    assert chat.message.content == whole.text
    assert (parts[-1].message.content or "").strip() == whole.text
    assert "".join(part.delta or "" for part in parts).strip() == whole.text
    assert chat.message.role == "assistant"
    assert len(pieces) == len(parts) > 3


async def test_all_four_asynchronous_ways_agree(ours: LlamaIndexSharedLLM) -> None:
    whole = await ours.acomplete(PROMPT)
    pieces = [one async for one in await ours.astream_complete(PROMPT)]
    chat = await ours.achat([message(PROMPT)])
    parts = [one async for one in await ours.astream_chat([message(PROMPT)])]
    expected = (await asyncio.to_thread(ours.complete, PROMPT)).text
    assert whole.text == chat.message.content == expected
    assert pieces[-1].text.strip() == (parts[-1].message.content or "").strip() == expected


async def test_the_event_loop_never_waits(ours: LlamaIndexSharedLLM) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    await ours.acomplete(PROMPT)
    after_one = ticks
    async for _ in await ours.astream_chat([message(PROMPT)]):
        pass
    ticking.cancel()
    assert after_one > 10
    assert ticks > after_one + 10


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_says_what_happened(ours: LlamaIndexSharedLLM, stream: bool) -> None:
    for outcome, reused, built in (("built", 0, len(FERRY)), ("reused", len(FERRY), 0)):
        response: Any = list(ours.stream_complete(PROMPT))[-1] if stream else ours.complete(PROMPT)
        found = response.additional_kwargs["sharedllm"]
        (document,) = found["documents"]
        assert (document["found_as"], document["outcome"]) == ("enclosed", outcome)
        assert document["characters"] == len(FERRY)
        assert response.raw["sharedllm"] == found
        assert response.raw["finish_reason"] in ("stop", "length")
        assert response.additional_kwargs["cache_read"] == reused
        assert response.additional_kwargs["cache_creation"] == built
        best = found["citations"][0]
        assert FERRY[best["char_start"] : best["char_end"]] == best["text"]


def test_only_the_last_piece_says_it(ours: LlamaIndexSharedLLM) -> None:
    pieces = list(ours.stream_chat([message(PROMPT)]))
    assert [bool(piece.additional_kwargs) for piece in pieces].count(True) == 1
    assert pieces[-1].additional_kwargs
    assert pieces[-1].delta == ""


def test_options_of_a_call_and_of_the_model(llm: SharedLLM) -> None:
    ours = model(llm)
    assert ours.complete(PROMPT, max_tokens=2).raw["usage"]["completion_tokens"] == 2
    assert model(llm, max_tokens=3).complete(PROMPT).raw["usage"]["completion_tokens"] == 3
    first = ours.complete(PROMPT).text
    assert ours.complete(PROMPT, stop=first[1:3]).text == first[:1].strip()
    assert model(llm, stop=(first[1:3],)).complete(PROMPT).text == first[:1].strip()
    small = ours.complete(PROMPT, budget=80).additional_kwargs["sharedllm"]["citations"]
    assert sum(len(one["text"]) for one in small) <= 80
    warm = model(llm, temperature=5.0, max_tokens=12)
    assert warm.complete("Hi", seed=1).text != warm.complete("Hi", seed=2).text
    assert warm.complete("Hi", seed=1).text == warm.complete("Hi", seed=1).text


def test_what_it_does_not_know_is_refused(llm: SharedLLM) -> None:
    with pytest.raises(ValidationError, match="context_windw"):
        model(llm, context_windw=4096)
    with pytest.raises(SharedLLMError, match="wombat"):
        model(llm).complete("Hello", wombat=1)
    with pytest.raises(SetupError, match="memory"):
        model(llm, keep=True)
    with pytest.raises(AnswerTimeoutError):
        model(llm, timeout=1e-6).complete(PROMPT)


def test_system_prompts_and_templates(ours: LlamaIndexSharedLLM) -> None:
    template = PromptTemplate("{text}\n\nWhat is this?")
    assert ours.predict(template, text="A ferry.")
    assert "".join(ours.stream(template, text="A ferry.")).strip() == ours.predict(
        template, text="A ferry."
    )
    terse = ours.model_copy(update={"system_prompt": "Be terse."})
    assert terse.predict(template, text="A ferry.")


# -- messages ------------------------------------------------------------------------------------


def test_a_citable_block_is_a_document(ours: LlamaIndexSharedLLM) -> None:
    block = CitableBlock(title="The ferry", source="ferry.txt", content=[TextBlock(text=FERRY)])
    response = ours.chat(
        [ChatMessage(blocks=[block, TextBlock(text=QUESTION), CachePoint(cache_control=POINT)])]
    )
    (document,) = response.additional_kwargs["sharedllm"]["documents"]
    assert (document["found_as"], document["title"]) == ("given", "The ferry")
    assert response.additional_kwargs["sharedllm"]["citations"][0]["source"] == "ferry.txt"


POINT: Any = {"type": "ephemeral", "ttl": "5m"}


@pytest.mark.parametrize(
    "block", [ImageBlock(image=b"abc"), DocumentBlock(data=b"abc", document_mimetype="text/plain")]
)
def test_other_blocks_are_refused(ours: LlamaIndexSharedLLM, block: Any) -> None:
    with pytest.raises(RequestError, match=r"allowed: 'text', and 'citable'") as caught:
        ours.chat([ChatMessage(blocks=[block])])
    assert isinstance(caught.value.cause, ContentError)


def test_the_results_of_an_agents_tools_are_no_questions() -> None:
    history = [
        message("Who lit it?"),
        message("Thought: look\nAction: find\nAction Input: {}", "assistant"),
        message("Observation: a text"),
    ]
    assert [turn.role for turn in request_messages(history)] == ["user", "assistant", "tool"]
    history[1] = message("I see.", "assistant")
    assert [turn.role for turn in request_messages(history)] == list(ROLES)
    assert [turn.role for turn in request_messages([message("Observation: it rains")])] == ["user"]


# -- documents -----------------------------------------------------------------------------------


def test_pasted_text_is_read_whole(ours: LlamaIndexSharedLLM) -> None:
    found = ours.complete(f"{LONG}\n\n{QUESTION}").additional_kwargs["sharedllm"]
    assert {one["found_as"] for one in found["documents"]} == {"pasted"}
    assert sum(one["characters"] for one in found["documents"]) > len(LONG) - 1400


def test_known_text_is_not_read_again(ours: LlamaIndexSharedLLM, memory: TreeMemory) -> None:
    own = model(loaded_for(memory), memory=memory, long_text=100)
    found = own.complete(f"{STORY}\n\n{QUESTION}").additional_kwargs["sharedllm"]
    (document,) = found["documents"]
    assert (document["found_as"], document["outcome"]) == ("known", "reused")


def test_forged_marks_are_text_and_reported(ours: LlamaIndexSharedLLM) -> None:
    forged = enclosed(FERRY).replace("seven", "eight")
    found = ours.complete(f"{forged} {QUESTION}").additional_kwargs["sharedllm"]
    assert found["documents"] == []
    assert "not the one that they name" in found["refused"][0]["why"]


def test_a_reference_to_nothing_is_refused(ours: LlamaIndexSharedLLM, memory: TreeMemory) -> None:
    for made in (gone(), reference(memory, "ferry")):
        with pytest.raises(RequestError, match="without its text") as caught:
            ours.complete(f"{made} {QUESTION}")
        assert isinstance(caught.value.cause, DocumentReferenceError)
        assert not isinstance(caught.value, ValueError)
        with pytest.raises(RequestError, match="without its text"):
            list(ours.stream_complete(f"{made} {QUESTION}"))


def test_the_requests_memory_and_filter_say_what_may_be_read(memory: TreeMemory) -> None:
    own, prompt = (
        model(loaded_for(memory), memory=memory),
        f"{reference(memory, 'ferry')} {QUESTION}",
    )
    found = own.complete(prompt).additional_kwargs["sharedllm"]["documents"]
    assert [(one["found_as"], one["id"]) for one in found] == [("reference", "ferry")]
    with pytest.raises(RequestError, match="for its tenant and filter"):
        own.complete(prompt, filter={"year": 1871})


def test_references_never_leave_the_model(llm: SharedLLM) -> None:
    parrot = model(llm, max_tokens=80, grammar=r'start: "[[sllm:v1:" /[0-9a-f]{32}/ "]]"')
    assert "[[sllm" not in parrot.complete("Hello").text
    assert "[(sllm" in parrot.complete("Hello").text


# -- callbacks, many at a time -------------------------------------------------------------------


def test_events_and_callbacks(llm: SharedLLM) -> None:
    counter = TokenCountingHandler(tokenizer=str.split)
    ours = model(llm, callback_manager=CallbackManager([counter]))
    with listening() as heard:
        ours.complete(PROMPT)
        list(ours.stream_chat([message(PROMPT)]))
    names = heard.names()
    for name in ("LLMCompletionStart", "LLMCompletionEnd", "LLMChatStart", "LLMChatEnd"):
        assert names.count(f"{name}Event") == 1
    assert names.count("LLMChatInProgressEvent") > 3
    read = [event for event in heard.events if event.class_name() == "DocumentsReadEvent"]
    assert [event.documents[0]["outcome"] for event in read] == ["built", "reused"]
    assert read[0].citations[0]["text"] in FERRY
    assert len(counter.llm_token_counts) == 2
    assert counter.llm_token_counts[0].prompt_token_count > len(FERRY)


def test_threads_share_one_model(ours: LlamaIndexSharedLLM) -> None:
    prompts = [f"{enclosed(text)}\n\n{QUESTION}" for text in (FERRY, STORY)] * 4
    expected = [ours.complete(prompt).text for prompt in prompts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda p: ours.complete(p).text, prompts)) == expected


async def test_tasks_share_one_model(ours: LlamaIndexSharedLLM) -> None:
    prompts = [f"{enclosed(text)}\n\n{QUESTION}" for text in (FERRY, STORY)] * 3

    async def streamed(prompt: str) -> str:
        text = ""
        async for piece in await ours.astream_complete(prompt):
            text = piece.text
        return text.strip()

    whole = await asyncio.gather(*map(ours.acomplete, prompts))
    assert [one.text for one in whole] == await asyncio.gather(*map(streamed, prompts))


async def test_a_stream_that_nobody_reads_on_ends(ours: LlamaIndexSharedLLM) -> None:
    stream = await ours.astream_complete(PROMPT, max_tokens=200)
    async for _ in stream:
        break
    await stream.aclose()
    assert (await ours.acomplete("Hello", max_tokens=1)).raw["usage"]["completion_tokens"] == 1


def test_as_plain_values(memory: TreeMemory) -> None:
    ours = LlamaIndexSharedLLM(memory=memory, max_tokens=4)
    assert ours.to_dict()["memory"] == str(memory.path)
    again = LlamaIndexSharedLLM.from_dict(ours.to_dict())
    assert again.max_tokens == 4
