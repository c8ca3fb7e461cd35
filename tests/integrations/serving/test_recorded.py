"""Requests as LangChain's ChatOpenAI and LlamaIndex's OpenAILike sent them, recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

RECORDED: list[dict[str, Any]] = json.loads(Path(__file__).with_name("recorded.json").read_text())


@pytest.mark.parametrize("one", RECORDED, ids=lambda one: ",".join(sorted(one["body"])))
def test_recorded_requests_are_answered(shared_address: str, one: dict[str, Any]) -> None:
    [model] = httpx.get(f"{shared_address}/v1/models").json()["data"]
    body = {**one["body"], "model": model["id"]}
    told = httpx.post(f"{shared_address}{one['path']}", json=body, timeout=60)
    assert told.status_code == 200, told.text
    if body.get("stream"):
        events = [line for line in told.text.split("\n\n") if line]
        assert events[-1] == "data: [DONE]"
        assert all(line.startswith("data: ") for line in events)
        assert not any("error" in json.loads(line[6:]) for line in events[:-1])
    else:
        assert told.json()["choices"][0]["finish_reason"]
