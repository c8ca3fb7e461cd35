"""Requests as other programs send them.

Those of LangChain's ChatOpenAI and LlamaIndex's OpenAILike were recorded; those of Open WebUI 0.12
have the fields that its source puts there, with texts of our own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sharedllm import SharedLLM, open_memory
from sharedllm_integrations.serving import ServerConfig
from tests.conftest import DOCUMENTS
from tests.integrations.serving.conftest import served

HERE = Path(__file__).parent
RECORDED: list[dict[str, Any]] = json.loads((HERE / "recorded.json").read_text())
OPEN_WEBUI: list[dict[str, Any]] = json.loads((HERE / "open_webui.json").read_text())


@pytest.fixture(scope="module")
def filled_address(llm: SharedLLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server whose memory holds three documents."""
    folder = tmp_path_factory.mktemp("filled") / "memory"
    open_memory(folder, llm=llm, create=True).add(DOCUMENTS)
    with served(ServerConfig.of(memory=folder), llm) as address:
        yield address


def answered(address: str, one: dict[str, Any]) -> Any:
    """The answer to a request: an object, or the events of its stream."""
    [model] = httpx.get(f"{address}/v1/models").json()["data"]
    body = {**one["body"], "model": model["id"]}
    told = httpx.post(f"{address}{one['path']}", json=body, timeout=60)
    assert told.status_code == 200, told.text
    if not body.get("stream"):
        return told.json()
    if "chat" in one["path"]:
        assert told.text.endswith("data: [DONE]\n\n")
    lines = [line for line in told.text.split("\n") if line.startswith("data: ")]
    return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]


def told_of(answer: Any) -> Any:
    """What is told of the documents."""
    if isinstance(answer, dict):
        return answer["sharedllm"]
    ends = [one.get("response", one) for one in answer]
    return [one["sharedllm"] for one in ends if "sharedllm" in one][-1]


@pytest.mark.parametrize("one", RECORDED, ids=lambda one: ",".join(sorted(one["body"])))
def test_recorded_requests_are_answered(shared_address: str, one: dict[str, Any]) -> None:
    answer = answered(shared_address, one)
    if isinstance(answer, list):
        assert not any("error" in event for event in answer)
    else:
        assert answer["choices"][0]["finish_reason"]


@pytest.mark.parametrize("one", OPEN_WEBUI, ids=lambda one: ",".join(sorted(one["body"])))
def test_requests_of_open_webui_are_answered(filled_address: str, one: dict[str, Any]) -> None:
    answer = answered(filled_address, one)
    body = one["body"]
    told = told_of(answer)
    about_a_chat = "<chat_history>" in str(body)
    assert bool(told["citations"]) != about_a_chat  # its own tasks are about no document
    assert told["scope"] == "passages"
    if body.get("stream_options"):
        assert answer[-1]["usage"]["completion_tokens"]
        assert answer[-1]["choices"] == []
    if isinstance(answer, dict):
        assert answer["choices"][0]["message"]["role"] == "assistant"


def test_open_webui_finds_the_model_and_is_told_of_images(filled_address: str) -> None:
    [model] = httpx.get(f"{filled_address}/v1/models").json()["data"]
    assert {"id", "object", "created", "owned_by"} <= model.keys()
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    content = [{"type": "text", "text": "What is this?"}, image]
    body = {"model": model["id"], "messages": [{"role": "user", "content": content}]}
    told = httpx.post(f"{filled_address}/v1/chat/completions", json={**body, "stream": True})
    assert told.status_code == 400
    assert "image_url" in told.json()["error"]["message"]
