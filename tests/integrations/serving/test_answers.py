from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from sharedllm import SharedLLM
from tests.conftest import DOCUMENTS
from tests.integrations.scripted import Scripted
from tests.integrations.serving.conftest import Serve, client_of, model_of, read
from tests.texts import FERRY, GARDEN

ASKED: Any = [{"role": "user", "content": "Who lit the lamp of the lighthouse?"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a town.",
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string"}},
            "required": ["town"],
        },
    },
}


def test_a_question_is_answered_from_the_memory(serve: Serve, filled: Path) -> None:
    client = client_of(serve())
    made = client.chat.completions.create(
        model=model_of(client), messages=ASKED, max_completion_tokens=8
    )
    [choice] = made.choices
    assert made.object == "chat.completion"
    assert choice.finish_reason in ("stop", "length")
    assert made.usage is not None
    details = made.usage.prompt_tokens_details
    assert details is not None
    assert details.cached_tokens  # the memory's trees were there
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens
    extra: Any = made.model_extra
    best = extra["sharedllm"]["citations"][0]
    texts = {one.id: one.text for one in DOCUMENTS}
    assert texts[best["document"]][best["char_start"] : best["char_end"]] == best["text"]
    assert {"page", "match_start", "match_end", "section"} <= best.keys()
    [note, *_] = choice.message.annotations or []
    assert note.type == "file_citation"
    assert note.file_id == best["document"]  # type: ignore[attr-defined]


def test_a_stream_says_the_same_as_the_whole(serve: Serve, filled: Path) -> None:
    client = client_of(serve())
    asked: Any = {"model": model_of(client), "messages": ASKED, "max_tokens": 12}
    whole = client.chat.completions.create(**asked)
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text.strip() == (whole.choices[0].message.content or "")
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    ends = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert ends[-1] == whole.choices[0].finish_reason
    assert ends[:-1] == [None] * (len(ends) - 1)
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    told: Any = chunks[-2].model_extra
    assert told["sharedllm"]["citations"] == whole.model_extra["sharedllm"]["citations"]  # type: ignore[index]


def test_completions_whole_streamed_and_several(serve: Serve, filled: Path) -> None:
    client = client_of(serve())
    asked: Any = {"model": model_of(client), "max_tokens": 8}
    made = client.completions.create(prompt=["Who lit the lamp?", "What costs a ticket?"], **asked)
    assert [choice.index for choice in made.choices] == [0, 1]
    told: Any = made.choices[1].model_extra
    assert told["sharedllm"]["citations"]
    pieces = list(client.completions.create(prompt="Who lit the lamp?", stream=True, **asked))
    text = "".join(piece.choices[0].text for piece in pieces if piece.choices)
    assert text.strip() == made.choices[0].text


def test_a_stop_text_ends_the_answer(shared_address: str) -> None:
    client = client_of(shared_address)
    asked: Any = {"model": model_of(client), "messages": ASKED, "max_tokens": 12}
    whole = client.chat.completions.create(**asked).choices[0].message.content or ""
    stop = whole[3:5]
    made = client.chat.completions.create(**asked, stop=stop)
    assert made.choices[0].message.content == whole[: whole.index(stop)].strip()
    assert made.choices[0].finish_reason == "stop"


def test_a_tool_is_called_and_its_result_is_read(serve: Serve, llm: SharedLLM) -> None:
    call = '<tool_call>{"name": "weather", "arguments": {"town": "Penmor"}}</tool_call>'
    model: Any = Scripted(llm, call, call, "It rains.")
    client = client_of(serve(model))
    asked: Any = {"model": model_of(client), "tools": [TOOL], "max_tokens": 200}
    question = {"role": "user", "content": "How is the weather in Penmor?"}
    made = client.chat.completions.create(messages=[question], **asked).choices[0]
    assert made.finish_reason == "tool_calls"
    [called] = made.message.tool_calls or []
    assert called.function.name == "weather"  # type: ignore[union-attr]
    with client.chat.completions.stream(messages=[question], **asked) as stream:
        streamed = stream.get_final_completion().choices[0].message.tool_calls or []
    assert streamed[0].function.arguments == called.function.arguments  # type: ignore[union-attr]
    result = {"role": "tool", "tool_call_id": called.id, "content": "rain"}
    history: Any = [question, made.message.model_dump(exclude_none=True), result]
    last = client.chat.completions.create(messages=history, **asked).choices[0]
    assert last.message.content == "It rains."
    assert last.finish_reason == "stop"
    assert "Result of weather" in model.prompt


def test_calls_that_are_none_are_not_lost(serve: Serve, llm: SharedLLM) -> None:
    cut = '<tool_call>{"name": "weather", "argum'
    model: Any = Scripted(llm, cut, cut, finish_reason="length")
    client = client_of(serve(model))
    asked: Any = {"model": model_of(client), "tools": [TOOL], "messages": ASKED}
    made = client.chat.completions.create(**asked)
    assert made.choices[0].finish_reason == "length"
    assert "weather" in (made.choices[0].message.content or "")
    told: Any = made.model_extra
    assert "was cut" in told["sharedllm"]["invalid_tool_calls"][0]["error"]
    chunks = list(client.chat.completions.create(**asked, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == made.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "length"


def test_a_schema_is_held(shared_address: str) -> None:
    client = client_of(shared_address)
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    form: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    made = client.chat.completions.create(
        model=model_of(client), messages=ASKED, response_format=form, max_tokens=64
    )
    assert made.choices[0].message.content in ('{"n": 1}', '{"n": 2}', '{"n":1}', '{"n":2}')


def test_documents_in_a_message_are_read_in_place_of_the_memory(serve: Serve, filled: Path) -> None:
    client = client_of(serve())
    data = base64.b64encode(GARDEN.encode()).decode()
    upload = client.files.create(file=("ferry.txt", FERRY.encode()), purpose="assistants")
    for file, name in (
        ({"filename": "garden.txt", "file_data": f"data:text/plain;base64,{data}"}, "garden.txt"),
        ({"file_id": upload.id}, "ferry.txt"),
    ):
        content: Any = [
            {"type": "file", "file": file},
            {"type": "text", "text": "What is told here?"},
        ]
        made = client.chat.completions.create(
            model=model_of(client),
            messages=[{"role": "user", "content": content}],
            max_tokens=4,
        )
        told: Any = made.model_extra
        assert {one["source"] for one in told["sharedllm"]["citations"]} == {name}
        assert told["sharedllm"]["documents"][0]["found_as"] in ("given", "known")


def test_a_follow_up_reads_the_document_of_an_earlier_message(serve: Serve, filled: Path) -> None:
    client = client_of(serve())
    upload = client.files.create(file=("boats.txt", FERRY.encode()), purpose="assistants")
    history: Any = [
        {
            "role": "user",
            "content": [
                {"type": "file", "file": {"file_id": upload.id}},
                {"type": "text", "text": "When does the ferry leave?"},
            ],
        },
        {"role": "assistant", "content": "At seven."},
        {"role": "user", "content": "And what does a ticket cost?"},
    ]
    made = client.chat.completions.create(model=model_of(client), messages=history, max_tokens=4)
    told: Any = made.model_extra
    assert len(told["sharedllm"]["documents"]) == 1
    assert {one["source"] for one in told["sharedllm"]["citations"]} == {"boats.txt"}


def test_file_search_names_the_store_and_filters(serve: Serve, filled: Path) -> None:
    client = client_of(serve())
    store = client.vector_stores.create(name="Boats")
    ferry = read(client, store.id, FERRY, "ferry.txt", attributes={"year": 1900})
    read(client, store.id, GARDEN, "garden.txt", attributes={"year": 1950})
    search: Any = {
        "type": "file_search",
        "vector_store_ids": [store.id],
        "filters": {"type": "lt", "key": "year", "value": 1925},
    }
    made = client.chat.completions.create(
        model=model_of(client), messages=ASKED, tools=[search], max_tokens=4
    )
    told: Any = made.model_extra
    assert {one["document"] for one in told["sharedllm"]["citations"]} == {ferry}


@pytest.mark.parametrize(
    ("given", "status", "said"),
    [
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "poet", "content": "x"}]}, 400, "poet"),
        ({"messages": [{"role": "user", "content": " "}]}, 400, "ask something"),
        ({"messages": [{"role": "system", "content": "x"}]}, 400, "no user message"),
        ({"model": "gpt-0"}, 404, "does not exist"),
        ({"n": 3}, 400, "n:"),
        ({"logprobs": True}, 400, "logprobs"),
        ({"nonsense": 1}, 400, "nonsense"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"max_tokens": 10**6}, 400, "at most"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"tools": [{"type": "web_search"}]}, 400, "a tool is"),
        ({"tools": [{"type": "file_search", "vector_store_ids": ["vs_no"]}]}, 404, "vs_no"),
        ({"tools": [{"type": "file_search", "vector_store_ids": []}]}, 400, "vector_store_ids"),
        ({"response_format": {"type": "poem"}}, 400, "response_format"),
        ({"tool_choice": "required"}, 400, "tool_choice"),
        ({"model": "\ud800"}, 404, "does not exist"),
        ({"stop": ""}, 400, "stop"),
        ({"seed": -1}, 400, "seed"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "file",
                                "file": {"file_data": "JVBERi0x", "filename": "broken.pdf"},
                            }
                        ],
                    }
                ]
            },
            400,
            "broken.pdf cannot be read",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            400,
            "image_url",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]},
            400,
            "file_id",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "file", "file": {"file_data": "%%", "filename": "a"}}],
                    }
                ]
            },
            400,
            "base64",
        ),
    ],
)
def test_bad_requests_are_refused_in_openais_shape(
    shared_address: str, given: dict[str, Any], status: int, said: str
) -> None:
    address = shared_address
    model = model_of(client_of(address))
    body = {"model": model, "messages": ASKED, "max_tokens": 4, **given}
    for stream in (False, True):
        told = httpx.post(
            f"{address}/v1/chat/completions",
            content=json.dumps({**body, "stream": stream}),
            headers={"content-type": "application/json"},
        )
        assert told.status_code == status, told.text
        error = told.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert said in error["message"]
        assert "Traceback" not in told.text


def test_a_body_that_is_no_json_is_refused(serve: Serve) -> None:
    address = serve(max_body=2000)
    url = f"{address}/v1/chat/completions"
    wrong = httpx.post(url, content=b"{", headers={"content-type": "application/json"})
    assert wrong.status_code == 400
    assert wrong.json()["error"]["type"] == "invalid_request_error"
    long = httpx.post(url, json={"model": "x" * 3000})
    assert long.status_code == 413

    def pieces() -> Any:
        for _ in range(10):
            yield b"x" * 1000

    unsaid = httpx.post(url, content=pieces(), headers={"content-type": "application/json"})
    assert unsaid.status_code == 413
    assert unsaid.json()["error"]["message"].startswith("the request has more than 2,000 bytes")
    missing = httpx.get(f"{address}/v1/nothing")
    assert missing.status_code == 404
    assert missing.json()["error"]["type"] == "invalid_request_error"


def test_other_sites_pages_are_refused_without_keys(shared_address: str) -> None:
    address = shared_address
    for headers in (
        {"origin": "https://evil.example"},
        {"host": "evil.example"},
        {"origin": "null"},
    ):
        told = httpx.get(f"{address}/v1/files", headers=headers)
        assert told.status_code == 403, headers
    assert httpx.get(f"{address}/v1/files", headers={"origin": address}).status_code == 200


def test_the_official_client_raises_its_own_errors(shared_address: str) -> None:
    client = client_of(shared_address)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", messages=ASKED)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=model_of(client), messages=ASKED, n=2)


def test_state_and_figures(serve: Serve, filled: Path) -> None:
    address = serve()
    client = client_of(address)
    assert httpx.get(f"{address}/health").json() == {"status": "ok"}
    assert httpx.get(f"{address}/ready").json() == {"status": "ready"}
    client.chat.completions.create(model=model_of(client), messages=ASKED, max_tokens=4)
    figures = httpx.get(f"{address}/metrics").text
    assert "sharedllm:time_to_first_token_seconds_count 1.0" in figures
    assert "sharedllm:num_requests_running 0.0" in figures
    assert "sharedllm:generation_tokens_total" in figures
