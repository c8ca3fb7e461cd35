from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from sharedllm import SharedLLM
from sharedllm_integrations.errors import MissingFrameworkError
from sharedllm_integrations.serving import ServerConfig, create_app, running
from sharedllm_integrations.serving.tracing import exporting
from tests.integrations.serving.test_line import Held

ASKED: Any = [{"role": "user", "content": "Who lit the lamp of the lighthouse?"}]
PARTS = ["queue", "search", "prefill", "decode"]
Traced = tuple[TestClient, InMemorySpanExporter]


def traced(folder: Path, llm: Any, **given: Any) -> Iterator[Traced]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = create_app(ServerConfig.of(memory=folder, **given), llm, provider)
    with TestClient(app, "http://127.0.0.1") as client:
        yield client, exporter


@pytest.fixture
def server(llm: SharedLLM, filled: Path) -> Iterator[Traced]:
    yield from traced(filled, llm)


def spans(exporter: InMemorySpanExporter) -> tuple[ReadableSpan, list[ReadableSpan]]:
    """The span of the last request, and its parts in order."""
    found = exporter.get_finished_spans()
    [request] = [one for one in found if one.parent is None]
    children = [one for one in found if one.parent is not None]
    assert all(one.parent.span_id == request.context.span_id for one in children)  # type: ignore[union-attr]
    exporter.clear()
    return request, sorted(children, key=lambda one: one.start_time or 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["chat/completions", "completions", "responses"])
def test_a_request_is_a_span_with_its_parts(server: Traced, path: str, stream: bool) -> None:
    client, exporter = server
    [model] = client.get("/v1/models").json()["data"]
    exporter.clear()
    text = ASKED[0]["content"]
    asked: Any = {"model": model["id"], "stream": stream}
    asked |= {"messages": ASKED} if "chat" in path else {"prompt": text, "input": text}
    asked.pop("prompt" if path == "responses" else "input", None)
    asked["max_output_tokens" if path == "responses" else "max_tokens"] = 4
    assert client.post(f"/v1/{path}", json=asked).status_code == 200
    request, parts = spans(exporter)
    assert request.name == f"POST /v1/{path}"
    assert [one.name for one in parts] == PARTS
    for before, after in itertools.pairwise(parts):
        assert (before.end_time or 0) <= (after.start_time or 0)
    told: Any = request.attributes
    assert told["gen_ai.usage.input_tokens"] >= told["gen_ai.usage.cache_read.input_tokens"] > 0
    assert told["gen_ai.usage.output_tokens"] >= 1
    assert told["sharedllm.scope"] == "passages"
    assert "lamp" not in str([one.to_json() for one in (request, *parts)])  # no text


def test_what_fails_is_told_and_monitors_are_not(llm: SharedLLM, filled: Path) -> None:
    for client, exporter in traced(filled, Held(llm), timeout=0.3):
        for path in ("/health", "/ready", "/metrics"):
            client.get(path)
        assert exporter.get_finished_spans() == ()
        [model] = client.get("/v1/models").json()["data"]
        exporter.clear()
        asked = {"model": model["id"], "messages": ASKED}
        assert client.post("/v1/chat/completions", json=asked).status_code == 504
        request, parts = spans(exporter)
        assert [one.name for one in parts] == PARTS
        assert parts[-1].status.status_code is StatusCode.ERROR
        assert request.status.status_code is StatusCode.ERROR
        bad = {**asked, "tools": [{"type": "web_search"}]}
        assert client.post("/v1/chat/completions", json=bad).status_code == 400
        assert [one.name for one in spans(exporter)[1]] == ["queue", "search"]


def test_spans_go_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    provider = exporting()
    assert provider.resource.attributes["service.name"] == "sharedllm"
    provider.shutdown()
    monkeypatch.setenv("OTEL_SERVICE_NAME", "books")
    provider = exporting()
    assert provider.resource.attributes["service.name"] == "books"
    provider.shutdown()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sharedllm_integrations.serving.tracing", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(MissingFrameworkError, match=r"sharedllm\[otel\]"):
        running.exporting()
