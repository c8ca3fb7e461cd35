"""A model elsewhere: what it is sent, what is made of its answers, and every way it can fail."""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

import pytest

from sharedllm import Document, SharedLLM
from sharedllm.errors import (
    ConfigError,
    MissingExtraError,
    ReaderError,
    UnsupportedModelError,
    WindowError,
)
from sharedllm.generation.prompt import ABSENT, Asked, ToolCall, ToolResult
from sharedllm.readers.address import Endpoint
from sharedllm.readers.endpoint import WINDOW, EndpointReader
from tests.readers.conftest import Elsewhere
from tests.readers.endpoint_server import Reply, delta, fails, says

ASKED = "Who keeps the lighthouse?"
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def test_an_answer_with_citations_and_the_endpoints_usage(
    elsewhere: Elsewhere, lighthouse: Document
) -> None:
    llm, script = elsewhere(says("Ansel ", "Byrd"))
    answer = llm.answer(ASKED, lighthouse, max_new_tokens=30)
    assert (answer.text, answer.finish_reason, answer.refused) == ("Ansel Byrd", "stop", False)
    assert (answer.usage.prompt_tokens, answer.usage.new_tokens) == (321, 7)
    assert answer.citations
    assert answer.usage.evidence_tokens > 0
    (asked,) = script.asked
    assert (asked["model"], asked["stream"], asked["max_tokens"]) == ("tiny", True, 30)
    (message,) = asked["messages"]
    assert message["role"] == "user"
    assert answer.citations[0].text in message["content"]
    assert ASKED in message["content"]
    assert ABSENT in message["content"]
    assert asked["temperature"] == 0
    assert asked["chat_template_kwargs"]["enable_thinking"] is False


def test_names_that_stand_nowhere_are_told(elsewhere: Elsewhere, lighthouse: Document) -> None:
    llm, _ = elsewhere(says("Zebedee Quill keeps it."))
    assert llm.answer(ASKED, lighthouse).unsupported == ("Zebedee Quill",)


def test_it_streams(elsewhere: Elsewhere, lighthouse: Document) -> None:
    gate = threading.Event()
    llm, _ = elsewhere(Reply(chunks=says("An", "sel").chunks, gate=gate))
    stream = llm.stream(ASKED, lighthouse)
    seen: list[str] = []
    threading.Timer(0.2, gate.set).start()
    seen.extend(stream)
    assert seen == ["An", "sel"]
    assert stream.answer.text == "Ansel"


def test_a_piece_comes_before_the_next_is_written(
    elsewhere: Elsewhere, lighthouse: Document
) -> None:
    gate = threading.Event()
    first, *rest = [delta(content="An"), delta(content="sel"), delta("stop")]
    llm, _ = elsewhere(Reply(chunks=[first, *rest], gate=gate))
    stream = llm.stream(ASKED, lighthouse)
    assert next(stream) == "An"
    assert not gate.is_set()
    gate.set()
    assert list(stream) == ["sel"]


def test_a_batch(elsewhere: Elsewhere, lighthouse: Document) -> None:
    llm, script = elsewhere(says("Ansel"))
    answers = llm.answer_batch([ASKED, "Where?", "When?"], lighthouse)
    assert [answer.text for answer in answers] == ["Ansel"] * 3
    assert len(script.asked) == 3
    llm, _ = elsewhere(fails(400, "nothing works"))
    with pytest.raises(ReaderError, match="nothing works"):
        llm.answer_batch([ASKED, "Where?"], lighthouse)


def test_tokens_are_estimated_where_none_are_reported(
    elsewhere: Elsewhere, lighthouse: Document
) -> None:
    llm, script = elsewhere(says("Ansel", used=None))
    usage = llm.answer(ASKED, lighthouse).usage
    sent = len(
        script.asked[0]["messages"][0]["content"].encode()
    )  # the tests' tokenizer has one a byte
    assert usage.new_tokens == len("Ansel")
    assert sent <= usage.prompt_tokens <= sent + 10


def test_options_of_an_answer(elsewhere: Elsewhere, lighthouse: Document) -> None:
    llm, script = elsewhere(says("Ansel"))
    given = {"temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": ("\n",)}
    llm.answer(ASKED, lighthouse, thinking=True, top_k=5, repetition_penalty=1.1, **given)
    sent = script.asked[0]
    assert {name: sent[name] for name in given} == {**given, "stop": ["\n"]}
    assert (sent["top_k"], sent["repetition_penalty"]) == (5, 1.1)
    assert sent["chat_template_kwargs"]["enable_thinking"] is True


def test_a_stop_text_ends_it_even_where_the_server_does_not(
    elsewhere: Elsewhere, lighthouse: Document
) -> None:
    llm, _ = elsewhere(says("Ansel", "\nQues", "tion: more"))
    answer = llm.answer(ASKED, lighthouse, stop="\nQuestion")
    assert (answer.text, answer.finish_reason) == ("Ansel", "stop")


@pytest.mark.parametrize(
    "chunks",
    [
        [delta(reasoning_content="Who? "), delta(reasoning_content="Ansel."), delta(content="A")],
        [delta(reasoning="Who? Ansel."), delta(content="A")],
        [delta(content="<think>Who? "), delta(content="Ansel.</think>\n\nA")],
        [
            delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "Who? "}]}]),
            delta(reasoning="Ansel."),
            delta(content=[{"type": "text", "text": "A"}]),
        ],
    ],
)
def test_thoughts_are_kept_apart(
    elsewhere: Elsewhere, lighthouse: Document, chunks: list[Any]
) -> None:
    llm, _ = elsewhere(Reply(chunks=[*chunks, delta("stop")]))
    answer = llm.answer(ASKED, lighthouse, thinking=True)
    assert (answer.text, answer.reasoning) == ("A", "Who? Ansel.")


def test_messages_are_sent_as_they_are(elsewhere: Elsewhere, lighthouse: Document) -> None:
    llm, script = elsewhere(says("Ansel"))
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello <|im_end|>."},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": ASKED},
    ]
    llm.answer(messages, lighthouse)
    *before, last = script.asked[0]["messages"]
    assert before == messages[:3]
    assert last["content"].index(ASKED) > 100


def test_tools_go_through_the_endpoint(elsewhere: Elsewhere) -> None:
    called = [
        {"index": 0, "id": "c1", "type": "function"}
        | {"function": {"name": "add", "arguments": '{"a": '}},
        {"index": 0, "function": {"arguments": "1}"}},
    ]
    chunks = [delta(tool_calls=[call]) for call in called]
    llm, script = elsewhere(Reply(chunks=[*chunks, delta("tool_calls")]))
    turns = (
        ("user", ("Add.",)),
        ("assistant", (ToolCall(name="add", arguments={"a": 2}, id="x"),)),
        ("tool", (ToolResult(name="add", id="x"), "3")),
        ("tool", ("an observation",)),
        ("user", ("Again.",)),
    )
    asked = Asked(turns=turns, query="Again.", tools=(ADD,), tool_required=True)
    answer = llm.answer(asked)
    assert answer.text == '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    sent = script.asked[0]
    assert (sent["tools"], sent["tool_choice"]) == ([ADD], "required")
    call = sent["messages"][1]["tool_calls"][0]
    assert (call["id"], json.loads(call["function"]["arguments"])) == ("x", {"a": 2})
    assert sent["messages"][2] == {"role": "tool", "content": "3", "tool_call_id": "x"}
    assert sent["messages"][3]["role"] == "user"


def test_a_json_schema_goes_through_the_endpoint(elsewhere: Elsewhere) -> None:
    llm, script = elsewhere(says('{"a": 1}'))
    grammar = json.dumps({"grammars": [{"json_schema": {"type": "object", "x-guidance": {}}}]})
    llm.answer("Give a.", grammar=grammar)
    form = script.asked[0]["response_format"]
    assert form["json_schema"]["schema"] == {"type": "object"}
    with pytest.raises(ConfigError, match="only a JSON schema"):
        llm.answer("Give a.", grammar='start: "a"')


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (fails(400, "Unrecognized request argument supplied: chat_template_kwargs"), None),
        (fails(422, "Unexpected fields in the request: {'stream_options'}"), None),
        (
            fails(
                400,
                "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'.",
                param="max_tokens",
            ),
            "max_completion_tokens",
        ),
        (
            fails(400, "Unsupported value: 'temperature' does not support 0", param="temperature"),
            None,
        ),
    ],
)
def test_parameters_that_a_server_does_not_know_are_left_out_from_then_on(
    elsewhere: Elsewhere, fault: Reply, name: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    llm, script = elsewhere(fault, says("Ansel"))
    assert [llm.answer(ASKED).text for _ in range(2)] == ["Ansel"] * 2
    first, second, third = script.asked
    assert len(first.keys() - second.keys()) == 1
    assert second == third
    assert name is None or second[name] == first["max_tokens"]
    assert "it is left out" in caplog.text


def test_a_temperature_that_was_asked_for_is_not_left_out(elsewhere: Elsewhere) -> None:
    llm, _ = elsewhere(fails(400, "invalid temperature", param="temperature"))
    with pytest.raises(ReaderError, match="invalid temperature"):
        llm.answer(ASKED, temperature=5)


def test_a_template_elsewhere_without_a_system_role(elsewhere: Elsewhere) -> None:
    llm, script = elsewhere(fails(400, "System role not supported"), says("Ansel"))
    system = {"role": "system", "content": "Be brief."}
    llm.answer([system, {"role": "user", "content": ASKED}])
    assert script.asked[1]["messages"] == [{"role": "user", "content": f"Be brief.\n\n{ASKED}"}]


# -- faults -----------------------------------------------------------------------------------

ENDLESS = [delta(role="assistant"), delta(content="Ans")]


@pytest.mark.parametrize(
    ("reply", "error", "told"),
    [
        (fails(401, "bad key"), ReaderError, "refuses the key.*SHAREDLLM_READER_KEY"),
        (fails(403, "not yours"), ReaderError, "refuses the key"),
        (fails(404, "model 'tiny' not found"), ReaderError, "does not know the model 'tiny'"),
        (fails(429, "slow down"), ReaderError, "allows no more requests.*slow down"),
        (fails(500, "boom"), ReaderError, r"failed \(500: boom\)"),
        (fails(503, "loading"), ReaderError, r"failed \(503"),
        (fails(418, "I am a teapot"), ReaderError, "refuses the request.*teapot"),
        (
            fails(400, "This model's maximum context length is 4096 tokens", code="x"),
            WindowError,
            "longer than the model.*reader_window",
        ),
        (
            fails(400, "the request exceeds the available context size (4096 tokens)"),
            WindowError,
            "lower budget",
        ),
        (
            fails(400, "The input token count exceeds the maximum number of tokens"),
            WindowError,
            "lower budget",
        ),
        (
            fails(422, "`inputs` tokens + `max_new_tokens` must be <= 4096"),
            WindowError,
            "lower budget",
        ),
        (Reply(status=200, body="<html>Hello</html>"), ReaderError, "sent no answer.*OpenAI"),
        (Reply(status=200, body={"choices": []}), ReaderError, "sent no answer.*OpenAI"),
        (says("An", finish="error"), ReaderError, "broke off after 2 characters"),
        (Reply(status=404, body="<html>no such page</html>"), ReaderError, "does not know"),
        (Reply(chunks=ENDLESS, hangs_up=True), ReaderError, "broke off after 3 characters"),
        (Reply(chunks=ENDLESS), ReaderError, "broke off after 3 characters"),
        (Reply(chunks=[*ENDLESS, "data: {half\n\n"]), ReaderError, "broke off after 3"),
        (
            Reply(chunks=[*ENDLESS, {"error": {"message": "CUDA out of memory"}}]),
            ReaderError,
            "CUDA out of memory",
        ),
        (says(), ReaderError, "empty answer"),
        (says("  ", "\n"), ReaderError, "empty answer"),
        (says(finish="content_filter"), ReaderError, "content filter"),
    ],
)
def test_every_fault_is_one_typed_line(
    elsewhere: Elsewhere, lighthouse: Document, reply: Reply, error: type[Exception], told: str
) -> None:
    llm, _ = elsewhere(reply)
    with pytest.raises(error, match=told) as raised:
        llm.answer(ASKED, lighthouse)
    assert "\n" not in str(raised.value)


def test_a_fault_that_passes_is_not_seen(elsewhere: Elsewhere) -> None:
    llm, script = elsewhere(fails(429, "slow down"), fails(500, "boom"), says("Ansel"))
    assert llm.answer(ASKED).text == "Ansel"
    assert len(script.asked) == 3


def test_a_model_without_tools(elsewhere: Elsewhere) -> None:
    llm, _ = elsewhere(fails(400, "registry.example/tiny does not support tools"))
    asked = Asked(turns=(("user", ("Add.",)),), query="Add.", tools=(ADD,))
    with pytest.raises(ReaderError, match=r"takes no tools.*ask without tools"):
        llm.answer(asked)


def test_an_endpoint_that_is_down(scout: SharedLLM) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    reader = EndpointReader(Endpoint(url=url, model="tiny"), scout.tokenizer)
    with pytest.raises(ReaderError, match=r"no answer from .*start the server"):
        SharedLLM(scout.encoder, reader=reader).answer(ASKED)


def test_an_endpoint_that_hangs(elsewhere: Elsewhere) -> None:
    gate = threading.Event()
    llm, _ = elsewhere(Reply(chunks=ENDLESS, gate=gate), timeout_s=0.2)
    with pytest.raises(ReaderError, match=r"did not answer within 0\.2 s|broke off"):
        llm.answer(ASKED)
    gate.set()


def test_thoughts_that_take_all_tokens_are_no_fault(elsewhere: Elsewhere) -> None:
    llm, _ = elsewhere(Reply(chunks=[delta(reasoning="Who?"), delta("length")]))
    answer = llm.answer(ASKED)
    assert (answer.text, answer.reasoning, answer.finish_reason) == ("", "Who?", "length")


# -- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"url": "localhost:11434"}, "give the address"),
        ({"url": ""}, "give the address"),
        ({"url": "ftp://localhost/v1"}, "give the address"),
        ({"url": "http://:80/v1"}, "give the address"),
        ({"url": "http://localhost:port/v1"}, "give the address"),
        ({"url": "http://me:secret@localhost/v1"}, "in the environment"),
        ({"url": "http://localhost/v1?key=secret"}, "in the environment"),
        ({"url": "http://localhost/v1", "model": " "}, "reader_model is empty"),
        ({"url": "http://localhost/v1", "window": 3}, "reader_window is 3"),
        ({"url": "http://localhost/v1", "timeout_s": 0}, "reader_timeout is 0"),
    ],
)
def test_bad_endpoints(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as raised:
        Endpoint(**options)
    assert "secret" not in str(raised.value)


def test_options_without_a_reader() -> None:
    with pytest.raises(ConfigError, match="reader_model is 'x', and there is no reader"):
        Endpoint.of(None, "x")
    with pytest.raises(ConfigError, match="reader_window is 1"):
        Endpoint.of(None, None, 1)
    assert Endpoint.of(None) is None
    whole = "http://localhost:8080/v1/chat/completions"
    assert Endpoint(url=whole).url == "http://localhost:8080/v1"


def test_the_key_is_the_environments_and_goes_nowhere_else(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm, script = elsewhere(says("Ansel"))
    llm.answer(ASKED)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-shared")
    assert Endpoint(url="http://example.org/v1").key() == ""
    assert Endpoint(url="https://example.org/v1").key() == "sk-shared"
    second, other = elsewhere(says("Ansel"))
    second.answer(ASKED)
    monkeypatch.setenv("SHAREDLLM_READER_KEY", "own")
    assert Endpoint(url="http://example.org/v1").key() == "own"
    heads = [s.heads[0]["authorization"] for s in (script, other)]
    assert heads == ["Bearer none", "Bearer sk-shared"]
    assert "shared" not in repr(second.reader.identity) + repr(vars(second.reader))
    third, _ = elsewhere(fails(401, "Incorrect API key provided: own"))
    with pytest.raises(ReaderError, match=r"provided: \*\*\*\)"):
        third.answer(ASKED)


def test_the_model_need_not_be_named_where_there_is_one(elsewhere: Elsewhere) -> None:
    llm, script = elsewhere(says("Ansel"), model=None)
    assert llm.answer(ASKED).text == "Ansel"
    assert script.asked[0]["model"] == llm.reader.name == "tiny"
    llm, _ = elsewhere(says("Ansel"), model=None, models=["a", "b"])
    with pytest.raises(ReaderError, match=r"has 2 models \(a, b\); name one"):
        llm.answer(ASKED)


def test_the_window_is_an_option(elsewhere: Elsewhere, lighthouse: Document) -> None:
    llm, script = elsewhere(says("Ansel"), window=700)
    llm.answer(ASKED, lighthouse)
    assert len(script.asked[0]["messages"][0]["content"]) < 700
    with pytest.raises(WindowError, match="reader_window is 700"):
        llm.answer(ASKED, lighthouse, budget=900)
    with pytest.raises(WindowError, match=r"question and .* reader_window is 700: shorten"):
        llm.answer("Who? " * 200, lighthouse)
    wide = {"type": "function", "function": {"name": "add", "description": "x" * 700}}
    with pytest.raises(WindowError, match="reader_window is 700"):
        llm.answer(Asked(turns=(("user", ("Add.",)),), query="Add.", tools=(wide,)))
    default, _ = elsewhere(says("Ansel"), window=None)
    assert default.window == WINDOW


def test_what_needs_kv_or_logits_is_refused(elsewhere: Elsewhere, lighthouse: Document) -> None:
    llm, script = elsewhere(says("Ansel"))
    for options in ({"leaves": "kv"}, {"coarse": "ready"}, {"refusal_margin": 0.5}):
        with pytest.raises(UnsupportedModelError, match="runs elsewhere"):
            llm.answer(ASKED, lighthouse, **options)
    with pytest.raises(UnsupportedModelError, match="KV injection needs"):
        _ = llm.upper
    assert not script.asked


def test_without_the_package(scout: SharedLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(MissingExtraError, match=r"sharedllm\[reader\]"):
        EndpointReader(Endpoint(url="http://localhost/v1"), scout.tokenizer)
