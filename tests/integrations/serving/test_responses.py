from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from sharedllm import SharedLLM
from tests.integrations.scripted import Scripted
from tests.integrations.serving.conftest import Serve, client_of, model_of, read, until
from tests.integrations.serving.test_line import Held
from tests.texts import FERRY, GARDEN

ASKED = "Who lit the lamp of the lighthouse?"
TOOL: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a town.",
    "parameters": {
        "type": "object",
        "properties": {"town": {"type": "string"}},
        "required": ["town"],
        "additionalProperties": False,
    },
    "strict": True,
}
CALL = '<tool_call>{"name": "weather", "arguments": {"town": "Penmor"}}</tool_call>'


def searching(*stores: str, **more: Any) -> Any:
    return {"type": "file_search", "vector_store_ids": list(stores), **more}


def test_a_response_is_answered_from_the_memory(serve: Serve, filled: Path) -> None:
    client = client_of(serve())
    made = client.responses.create(
        model=model_of(client),
        input=ASKED,
        instructions="Be short.",
        max_output_tokens=8,
        metadata={"a": "b"},
    )
    assert (made.object, made.instructions, made.metadata) == ("response", "Be short.", {"a": "b"})
    assert made.status in ("completed", "incomplete")
    assert (made.incomplete_details is None) == (made.status == "completed")
    [message] = made.output
    assert message.type == "message"
    [part] = message.content
    assert part.type == "output_text"
    assert made.output_text == part.text
    assert made.usage is not None
    assert made.usage.input_tokens_details.cached_tokens  # the memory's trees were there
    assert made.usage.total_tokens == made.usage.input_tokens + made.usage.output_tokens
    told: Any = made.model_extra
    best = told["sharedllm"]["citations"][0]
    note = part.annotations[0]
    assert note.type == "file_citation"
    assert (note.file_id, note.index) == (best["document"], len(part.text))
    assert note.model_extra is not None
    assert {"page", "char_start", "match_start", "section"} <= note.model_extra.keys()


def test_the_events_of_a_stream_make_the_response(serve: Serve, filled: Path) -> None:
    client = client_of(serve())
    asked: Any = {
        "model": model_of(client),
        "input": ASKED,
        "max_output_tokens": 12,
        "tools": [searching("vs_main")],
        "include": ["file_search_call.results"],
    }
    whole = client.responses.create(**asked)
    events = list(client.responses.create(**asked, stream=True))
    kinds = [event.type for event in events]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    ending = f"response.{whole.status}"
    assert list(dict.fromkeys(kinds)) == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.file_search_call.in_progress",
        "response.file_search_call.searching",
        "response.file_search_call.completed",
        "response.output_item.done",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.annotation.added",
        "response.output_text.done",
        "response.content_part.done",
        ending,
    ]
    last: Any = events[-1]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == last.response.output_text == whole.output_text
    assert last.response.usage == whole.usage
    for response in (whole, last.response):
        search, message = response.output
        assert search.status == "completed"
        assert search.queries == [ASKED]
        assert {one.file_id for one in search.results} == {
            note.file_id for note in message.content[0].annotations
        }
    found = {one.file_id: one.attributes for one in whole.output[0].results}  # type: ignore[union-attr]
    assert found["story"] == {"year": 1871, "place": "Penmor"}
    ids = {event.response.id for event in events if hasattr(event, "response")}
    assert ids == {last.response.id}


def test_the_clients_own_accumulator_reads_the_stream(serve: Serve, llm: SharedLLM) -> None:
    model: Any = Scripted(llm, " It was Odile. \n")
    client = client_of(serve(model))
    with client.responses.stream(model=model_of(client), input=ASKED) as stream:
        deltas = [e.delta for e in stream if e.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text == "It was Odile."
    assert client.responses.retrieve(final.id).output_text == "It was Odile."


def test_a_follow_up_reads_what_was_said(serve: Serve, llm: SharedLLM) -> None:
    model: Any = Scripted(llm, "Odile did.", "In 1902.", "Yes.")
    client = client_of(serve(model))
    name = model_of(client)
    first = client.responses.create(model=name, input="Who grew roses?", instructions="Rhyme.")
    second = client.responses.create(model=name, input="And when?", previous_response_id=first.id)
    said = model.prompt
    assert "Odile did." in said
    assert "Rhyme." not in said  # instructions are those of one response
    assert said.index("Who grew roses?") < said.index("Odile did.") < said.index("And when?")
    third = client.responses.create(model=name, input="Sure?", previous_response_id=second.id)
    assert "In 1902." in model.prompt
    assert third.previous_response_id == second.id
    [item] = client.responses.input_items.list(second.id).data
    assert item.type == "message"
    assert item.content[0].text == "And when?"  # type: ignore[union-attr]
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError, match=first.id):
        client.responses.create(model=name, input="And?", previous_response_id=third.id)


def test_a_response_is_kept_for_its_tenant_after_a_restart(
    serve: Serve, llm: SharedLLM, tmp_path: Path
) -> None:
    model: Any = Scripted(llm, "Odile did.", "In 1902.", "Hm.")
    client = client_of(serve(model))
    name = model_of(client)
    first = client.responses.create(model=name, input="Who grew roses?")
    unkept = client.responses.create(model=name, input="Who?", store=False)
    again = client_of(serve(model))
    assert again.responses.retrieve(first.id).output_text == "Odile did."
    with pytest.raises(openai.NotFoundError):
        again.responses.retrieve(unkept.id)
    again.responses.create(model=name, input="When?", previous_response_id=first.id)
    assert "Odile did." in model.prompt
    other = client_of(serve(model, memory=tmp_path / "other"))
    with pytest.raises(openai.NotFoundError):
        other.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError):
        other.responses.create(model=name, input="When?", previous_response_id=first.id)


def test_a_function_is_called_and_its_result_is_read(serve: Serve, llm: SharedLLM) -> None:
    model: Any = Scripted(llm, CALL, CALL, "It rains.", "Still.")
    client = client_of(serve(model))
    asked: Any = {"model": model_of(client), "tools": [TOOL]}
    question = {"role": "user", "content": "How is the weather in Penmor?"}
    made = client.responses.create(input=[question], **asked)
    [call] = made.output
    assert call.type == "function_call"
    assert json.loads(call.arguments) == {"town": "Penmor"}
    assert made.status == "completed"
    with client.responses.stream(input=[question], **asked) as stream:
        events = list(stream)
        [streamed] = stream.get_final_response().output
    kinds = [event.type for event in events]
    assert "response.function_call_arguments.done" in kinds
    assert "response.output_text.delta" not in kinds
    assert streamed.type == "function_call"
    assert streamed.arguments == call.arguments
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    history: Any = [question, call.model_dump(exclude_none=True), result]
    assert client.responses.create(input=history, **asked).output_text == "It rains."
    assert "Result of weather" in model.prompt
    follow: Any = {"input": [result], "previous_response_id": made.id}
    assert client.responses.create(**follow, **asked).output_text == "Still."
    assert "Result of weather" in model.prompt


def test_a_schema_is_held_and_parsed(serve: Serve) -> None:
    class Number(BaseModel):
        n: int
        ok: bool

    client = client_of(serve())
    made = client.responses.parse(
        model=model_of(client), input="A number?", text_format=Number, max_output_tokens=64
    )
    assert isinstance(made.output_parsed, Number)
    asked: Any = {"model": model_of(client), "input": "A number?", "max_output_tokens": 64}
    with client.responses.stream(**asked, text_format=Number) as stream:
        assert stream.get_final_response().output_parsed == made.output_parsed
    assert made.text is not None
    assert made.text.format is not None
    assert made.text.format.type == "json_schema"


def test_documents_in_the_input_are_read(serve: Serve, filled: Path) -> None:
    client = client_of(serve())
    data = base64.b64encode(GARDEN.encode()).decode()
    upload = client.files.create(file=("ferry.txt", FERRY.encode()), purpose="user_data")
    for file, name in (
        ({"filename": "garden.txt", "file_data": f"data:text/plain;base64,{data}"}, "garden.txt"),
        ({"file_id": upload.id}, "ferry.txt"),
    ):
        content: Any = [
            {"type": "input_file", **file},
            {"type": "input_text", "text": "What is told here?"},
        ]
        made = client.responses.create(
            model=model_of(client),
            input=[{"role": "user", "content": content}],
            max_output_tokens=4,
        )
        told: Any = made.model_extra
        assert {one["source"] for one in told["sharedllm"]["citations"]} == {name}


def test_a_search_names_the_store_and_filters(serve: Serve, filled: Path) -> None:
    client = client_of(serve())
    store = client.vector_stores.create(name="Boats")
    ferry = read(client, store.id, FERRY, "ferry.txt", attributes={"year": 1900})
    read(client, store.id, GARDEN, "garden.txt", attributes={"year": 1950})
    tool = searching(store.id, filters={"type": "lt", "key": "year", "value": 1925})
    asked: Any = {"model": model_of(client), "input": ASKED, "tools": [tool]}
    for choice in ("auto", "required", {"type": "file_search"}):
        made = client.responses.create(**asked, max_output_tokens=4, tool_choice=choice)
        told: Any = made.model_extra
        assert {one["document"] for one in told["sharedllm"]["citations"]} == {ferry}
    assert made.output[0].type == "file_search_call"
    assert made.output[0].results is None  # not asked for
    kept = client.responses.retrieve(made.id, include=["file_search_call.results"])
    assert kept.output[0].results[0].attributes == {"year": 1900}  # type: ignore[union-attr,index]
    assert client.responses.retrieve(made.id).output[0].results is None  # type: ignore[union-attr]


def test_an_error_behind_the_first_event_is_one_of_the_stream(serve: Serve, llm: SharedLLM) -> None:
    held = Held(llm)
    client = client_of(serve(held, timeout=0.3))
    events = list(client.responses.create(model=model_of(client), input=ASKED, stream=True))
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert "not complete after" in last.response.error.message
    until(lambda: held.ended == 1)
    until(lambda: _status(client, last.response.id) == "failed")


def _status(client: openai.OpenAI, id: str) -> str | None:
    try:
        return client.responses.retrieve(id).status
    except openai.NotFoundError:
        return None


@pytest.mark.parametrize(
    ("given", "status", "said"),
    [
        ({"input": []}, 400, "input"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, 400, "item_reference"),
        ({"input": [{"role": "poet", "content": "x"}]}, 400, "poet"),
        ({"input": [{"role": "user"}]}, 400, "content"),
        ({"input": [{"role": "user", "content": ["x"]}]}, 400, "part"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, 400, "input_image"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "x"}]}]},
            400,
            "fetches nothing",
        ),
        ({"input": [{"type": "function_call", "name": "x"}]}, 400, "call_id"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, 400, "call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": [1]}]}, 400, "part"),
        ({"input": " "}, 400, "ask something"),
        ({"model": "gpt-0"}, 404, "does not exist"),
        ({"background": True}, 400, "background"),
        ({"truncation": "auto"}, 400, "truncation"),
        ({"conversation": "conv_1"}, 400, "conversation"),
        ({"prompt": {"id": "x"}}, 400, "prompt"),
        ({"include": ["message.output_text.logprobs"]}, 400, "include"),
        ({"max_output_tokens": 10**6}, 400, "max_output_tokens"),
        ({"previous_response_id": "resp_no"}, 404, "resp_no"),
        ({"tools": [{"type": "web_search"}]}, 400, "a tool is"),
        ({"tools": [searching("vs_no")]}, 404, "vs_no"),
        ({"tools": [searching()]}, 400, "vector_store_ids"),
        ({"tool_choice": {"type": "file_search"}}, 400, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto"}}, 400, "tool_choice"),
        ({"text": {"format": {"type": "poem"}}}, 400, "format"),
        ({"text": {"format": {"type": "json_schema"}}}, 400, "format"),
        ({"nonsense": 1}, 400, "nonsense"),
        ({"input": "x", "instructions": "\ud800"}, 200, ""),
        ({"text": {"format": {"type": "text", "x": float("nan")}}}, 400, "holds nan"),
    ],
)
def test_bad_requests_are_refused_in_openais_shape(
    shared_address: str, given: dict[str, Any], status: int, said: str
) -> None:
    model = model_of(client_of(shared_address))
    body = {"model": model, "input": ASKED, "max_output_tokens": 4, **given}
    for stream in (False, True):
        told = httpx.post(
            f"{shared_address}/v1/responses",
            content=json.dumps({**body, "stream": stream}),
            headers={"content-type": "application/json"},
        )
        assert told.status_code == status, told.text
        if status != 200:
            error = told.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert said in error["message"]


def test_what_is_kept_cannot_be_cancelled_or_streamed(shared_address: str) -> None:
    client = client_of(shared_address)
    made = client.responses.create(
        model=model_of(client), input="One.\n\nTwo?", max_output_tokens=2
    )
    with pytest.raises(openai.BadRequestError, match="has ended"):
        client.responses.cancel(made.id)
    with pytest.raises(openai.BadRequestError, match="stream"):
        list(client.responses.retrieve(made.id, stream=True))
    for path in ("", "/input_items"):
        assert httpx.get(f"{shared_address}/v1/responses/resp_no{path}").status_code == 404
    with pytest.raises(openai.BadRequestError):
        client.responses.input_items.list(made.id, after="no")
