"""ChatSharedLLM and SharedLLMCompletion beyond LangChain's suites, on a tiny model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    HumanMessage,
    SystemMessage,
)
from langchain_core.runnables import Runnable
from pydantic import ValidationError

from sharedllm import SharedLLM, SharedLLMError
from sharedllm.generation import decoding
from sharedllm_integrations.engine import _cleaned
from sharedllm_integrations.errors import (
    AnswerTimeoutError,
    ContentError,
    DocumentReferenceError,
    SetupError,
)
from sharedllm_integrations.langchain import ChatSharedLLM, SharedLLMCompletion
from tests.integrations.prompts import NOWHERE, enclosed, gone
from tests.texts import FERRY, GARDEN, STORY

PROMPT = f"Read:\n{enclosed(FERRY)}\n\nWhen does the ferry leave?"
Chat = Runnable[Any, Any]
LONG: Any = {  # an answer of thousands of tokens, whatever the model would say
    "type": "json_schema",
    "schema": {
        "type": "object",
        "properties": {"text": {"type": "string", "minLength": 4000, "maxLength": 4500}},
        "required": ["text"],
    },
}


@pytest.fixture
def chat(llm: SharedLLM) -> ChatSharedLLM:
    return ChatSharedLLM(llm=llm, max_tokens=12, search={"budget": 128})


def joined(chunks: list[Any]) -> AIMessageChunk:
    full = chunks[0]
    for chunk in chunks[1:]:
        full = full + chunk
    assert isinstance(full, AIMessageChunk)
    return full


# -- answers ---------------------------------------------------------------------------------------


def test_streamed_and_whole_answers_agree(chat: ChatSharedLLM) -> None:
    whole = chat.invoke(PROMPT)
    chunks = list(chat.stream(PROMPT))
    full = joined(chunks)
    assert isinstance(whole.content, str)
    assert full.content.strip() == whole.content  # type: ignore[union-attr]
    assert sum(chunk.chunk_position == "last" for chunk in chunks) == 1
    assert sum(bool(chunk.usage_metadata) for chunk in chunks) == 1
    assert whole.usage_metadata is not None
    assert full.usage_metadata is not None
    assert whole.usage_metadata["total_tokens"] == full.usage_metadata["total_tokens"]
    assert len(chunks) > 3


async def test_asynchronous_answers_agree(chat: ChatSharedLLM) -> None:
    whole = await chat.ainvoke(PROMPT)
    full = joined([chunk async for chunk in chat.astream(PROMPT)])
    assert full.text.strip() == whole.text
    assert whole.text == (await asyncio.to_thread(chat.invoke, PROMPT)).text


def test_usage_says_what_was_reused_and_built(chat: ChatSharedLLM) -> None:
    for expected in ({"cache_read": 0, "cache_creation": len(FERRY)}, {"cache_read": len(FERRY)}):
        used = chat.invoke(PROMPT).usage_metadata
        assert used is not None
        assert expected.items() <= dict(used["input_token_details"]).items()
        assert used["input_tokens"] > len(FERRY)
        assert used["input_tokens"] + used["output_tokens"] == used["total_tokens"]


def test_metadata_says_what_happened(chat: ChatSharedLLM) -> None:
    metadata = chat.invoke(PROMPT).response_metadata
    assert metadata["model_provider"] == "sharedllm"
    assert metadata["finish_reason"] in ("stop", "length")
    (document,) = metadata["sharedllm"]["documents"]
    assert (document["found_as"], document["outcome"]) == ("enclosed", "built")
    assert document["characters"] == len(FERRY)


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_citations_are_annotations(llm: SharedLLM, version: Any) -> None:
    chat = ChatSharedLLM(llm=llm, max_tokens=5, output_version=version)
    for message in (chat.invoke(PROMPT), joined(list(chat.stream(PROMPT)))):
        (block,) = (b for b in message.content_blocks if b["type"] == "text")
        found: Any = block["annotations"][0]
        assert found["type"] == "citation"
        assert found["cited_text"] in FERRY
        start, end = found["extras"]["char_start"], found["extras"]["char_end"]
        assert FERRY[start:end] == found["cited_text"]
        assert found["extras"]["kind"] == "selected evidence"
        assert message.text


def test_callbacks_see_every_piece(chat: ChatSharedLLM) -> None:
    class Watching(BaseCallbackHandler):
        def __init__(self) -> None:
            self.pieces: list[Any] = []
            self.ended: list[Any] = []

        def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
            self.pieces.append(token)

        def on_llm_end(self, response: Any, **kwargs: Any) -> None:
            self.ended.append(response.generations[0][0].message)

    watching = Watching()
    full = joined(list(chat.stream(PROMPT, config={"callbacks": [watching]})))
    assert "".join(watching.pieces) == full.content
    assert watching.ended[0].response_metadata["sharedllm"]["citations"]


def test_streaming_in_invoke(llm: SharedLLM) -> None:
    chat = ChatSharedLLM(llm=llm, max_tokens=5, streaming=True)
    answer = chat.invoke(PROMPT)
    assert answer.usage_metadata is not None
    assert answer.text.strip() == ChatSharedLLM(llm=llm, max_tokens=5).invoke(PROMPT).text


def test_a_batch_answers_in_order(chat: ChatSharedLLM) -> None:
    prompts = [f"{enclosed(text)}\n\nWhat is it about?" for text in (STORY, FERRY, GARDEN)]
    together = [answer.text for answer in chat.batch(list(prompts))]
    assert together == [chat.invoke(prompt).text for prompt in prompts]


async def test_many_at_once_on_one_model(chat: ChatSharedLLM) -> None:
    prompts = [f"{enclosed(text)}\n\n{n}?" for n, text in enumerate((STORY, FERRY, GARDEN) * 4)]
    alone = [chat.invoke(prompt).text for prompt in prompts]

    async def streamed(prompt: str) -> str:
        return joined([chunk async for chunk in chat.astream(prompt)]).text.strip()

    with ThreadPoolExecutor(4) as pool:
        loop = asyncio.get_running_loop()
        threads = [loop.run_in_executor(pool, chat.invoke, prompt) for prompt in prompts]
        found = await asyncio.gather(
            *(chat.ainvoke(p) for p in prompts), *(streamed(p) for p in prompts), *threads
        )
    texts = [one if isinstance(one, str) else one.text for one in found]
    assert texts == alone * 3


async def test_the_event_loop_goes_on(llm: SharedLLM) -> None:
    chat = ChatSharedLLM(llm=llm, max_tokens=100)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.002)
            ticks += 1

    ticking = asyncio.create_task(tick())
    await chat.ainvoke(PROMPT)
    ticking.cancel()
    assert ticks > 5


async def test_leaving_a_stream_stops_the_model(llm: SharedLLM) -> None:
    chat = ChatSharedLLM(llm=llm, max_tokens=5000)
    stream = chat.astream("Hello", response_format=LONG)
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    for _ in range(200):
        busy = [t for t in threading.enumerate() if t.name.startswith("sharedllm")]
        if not any(_is_working(thread) for thread in busy):
            break
        await asyncio.sleep(0.02)
    else:
        pytest.fail("a thread still writes an answer that nobody reads")


def _is_working(thread: threading.Thread) -> bool:
    import sys
    import traceback

    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and any(
        "sharedllm/generation.py" in line.filename for line in traceback.extract_stack(frame)
    )


async def test_a_cancelled_answer_stops(llm: SharedLLM) -> None:
    chat = ChatSharedLLM(llm=llm, max_tokens=5000)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(chat.ainvoke("Hello", response_format=LONG), timeout=0.2)
    answer = await asyncio.wait_for(chat.ainvoke("Hello", max_tokens=2), timeout=3)
    assert answer.usage_metadata is not None


async def test_errors_reach_who_awaits(llm: SharedLLM) -> None:
    chat = ChatSharedLLM(llm=llm)
    with pytest.raises(DocumentReferenceError):
        await chat.ainvoke(f"{gone()} Why?")
    with pytest.raises(DocumentReferenceError):
        async for _ in chat.astream(f"{gone()} Why?"):
            pass


# -- options ---------------------------------------------------------------------------------------


def test_options_of_a_call_go_first(chat: ChatSharedLLM) -> None:
    used = chat.invoke("Hello", max_tokens=3).usage_metadata
    assert used is not None
    assert used["output_tokens"] <= 3
    found = chat.bind(budget=64).invoke(PROMPT).response_metadata["sharedllm"]["citations"]
    assert 0 < sum(one["char_end"] - one["char_start"] for one in found) <= 64


@pytest.mark.parametrize("streamed", [False, True])
def test_the_budget_that_follows_the_question(
    llm: SharedLLM, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    monkeypatch.setattr(llm.decoder, "refusal_id", 7)
    monkeypatch.setattr(decoding, "is_unsure", lambda refused: True)
    chat = ChatSharedLLM(llm=llm, max_tokens=3).bind(budget="auto", scorer="bm25")
    prompt = f"Read:\n{enclosed(STORY * 3)}\n\nWhen does the ferry leave?"
    message = joined(list(chat.stream(prompt))) if streamed else chat.invoke(prompt)
    said = message.response_metadata["sharedllm"]
    assert (said["looks"], said["budget"]) in ((2, 512), (2, 1024))
    with pytest.raises(SharedLLMError, match="or 'auto'"):
        chat.bind(budget="automatic").invoke(prompt)


def test_stop_texts(llm: SharedLLM) -> None:
    chat = ChatSharedLLM(llm=llm, max_tokens=12)
    text = joined(list(chat.stream("Hello"))).text
    stop = text[3]
    assert chat.invoke("Hello", stop=[stop]).text == text[: text.index(stop)].strip()
    by_field = ChatSharedLLM(llm=llm, max_tokens=12, stop=[stop])
    assert by_field.invoke("Hello").text == text[: text.index(stop)].strip()


def test_an_unknown_option_is_named(chat: ChatSharedLLM) -> None:
    with pytest.raises(SharedLLMError, match="unknown option bugdet"):
        chat.invoke("Hello", bugdet=3)
    with pytest.raises(ValidationError, match="bugdet"):
        ChatSharedLLM(bugdet=3)  # type: ignore[call-arg]
    with pytest.raises(SetupError, match="needs a memory"):
        ChatSharedLLM(keep=True).invoke("Hello")


def test_timeout(llm: SharedLLM) -> None:
    with pytest.raises(AnswerTimeoutError):
        ChatSharedLLM(llm=llm, timeout=0.00001).invoke("Hello")
    assert issubclass(AnswerTimeoutError, TimeoutError)


def test_tokens_are_counted_by_the_model(chat: ChatSharedLLM, llm: SharedLLM) -> None:
    assert chat.get_num_tokens("Hello") == 5  # a byte each
    assert chat.get_token_ids("Hello") == llm.tokenizer("Hello")["input_ids"]
    assert chat.get_num_tokens_from_messages([HumanMessage("Hello")]) > 5


def test_profile(chat: ChatSharedLLM) -> None:
    assert chat.profile is not None
    assert chat.profile["max_input_tokens"] == 1_000_000
    assert chat.profile["tool_calling"]
    assert chat.profile["structured_output"]


# -- messages --------------------------------------------------------------------------------------


def test_document_blocks_are_documents(chat: ChatSharedLLM) -> None:
    blocks: list[Any] = [
        {"type": "text-plain", "text": FERRY, "title": "The ferry", "mime_type": "text/plain"},
        {"type": "text", "text": "When does it leave?"},
    ]
    answer = chat.invoke([HumanMessage(content_blocks=blocks)])
    (document,) = answer.response_metadata["sharedllm"]["documents"]
    assert (document["found_as"], document["title"]) == ("given", "The ferry")


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "base64": "aGk=", "mime_type": "image/png"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
        {"type": "unheard_of", "x": 1},
    ],
)
def test_what_is_no_text_is_refused(chat: ChatSharedLLM, block: dict[str, Any]) -> None:
    with pytest.raises(ContentError, match="allowed: 'text', and 'text-plain'"):
        chat.invoke([HumanMessage([{"type": "text", "text": "Look:"}, block])])


def test_roles(chat: ChatSharedLLM) -> None:
    messages = [SystemMessage("Be brief."), ChatMessage(role="user", content="Hello")]
    assert isinstance(chat.invoke(messages), AIMessage)
    with pytest.raises(ContentError, match="role 'oracle'"):
        chat.invoke([ChatMessage(role="oracle", content="Hello")])


def test_marks_in_the_answer_are_harmless(chat: ChatSharedLLM) -> None:
    mark = str(NOWHERE)

    def saying(*args: Any, **kwargs: Any) -> Iterator[str]:
        yield from ("See [", "[sll", f"m:v1:{'0' * 32}]] there.")

    plan = chat._own_engine.plan(chat._asked([HumanMessage("Hello")], None, {})[1])
    shown = "".join(_cleaned(saying(), plan, []))
    assert shown == f"See {mark} there.".replace("[[", "[(")


# -- completion ------------------------------------------------------------------------------------


async def test_completion(llm: SharedLLM) -> None:
    model = SharedLLMCompletion(llm=llm, max_tokens=6)
    text = model.invoke(PROMPT)
    assert text
    assert "".join(model.stream(PROMPT)).strip() == text
    assert await model.ainvoke(PROMPT) == text
    assert "".join([piece async for piece in model.astream(PROMPT)]).strip() == text
    assert model.batch([PROMPT, "Hello"])[0] == text
    result = model.generate([PROMPT])
    info = result.generations[0][0].generation_info or {}
    assert info["sharedllm"]["documents"][0]["found_as"] == "enclosed"
    assert (result.llm_output or {})["token_usage"]["completion_tokens"] <= 6
    assert model.get_num_tokens("Hello") == 5
