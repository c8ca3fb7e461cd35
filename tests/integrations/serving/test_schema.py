"""Requests made from the OpenAPI schema: none may fail in the server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sharedllm_integrations.serving import ServerConfig, create_app

TIMEOUT = 30  # seconds, against hangs
SCHEMA = schemathesis.openapi.from_dict(create_app(ServerConfig.of(memory=Path("none"))).openapi())
OPERATIONS: dict[str, Any] = {
    one.ok().label: one.ok()
    for one in SCHEMA.get_all_operations()  # type: ignore[union-attr]
}


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    """The connections of all requests, closed at the end."""
    with requests.Session() as made:
        yield made


def test_the_schema_tells_all_of_the_server() -> None:
    paths = {label.split()[1] for label in OPERATIONS}
    assert {"/v1/chat/completions", "/v1/responses", "/v1/files", "/metrics"} <= paths
    assert len(OPERATIONS) >= 30


@pytest.mark.parametrize("label", OPERATIONS)
@given(data=st.data())
@settings(
    max_examples=10,
    derandomize=True,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_no_request_fails_in_the_server(
    label: str, data: st.DataObject, shared_address: str, session: requests.Session
) -> None:
    case = data.draw(OPERATIONS[label].as_strategy())
    if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
        [model] = httpx.get(f"{shared_address}/v1/models").json()["data"]
        case.body["model"] = model["id"]  # any other name is refused before anything is done
        longest = "max_output_tokens" if case.path.endswith("responses") else "max_tokens"
        case.body.setdefault(longest, 4)
    told = case.call(base_url=shared_address, session=session, timeout=TIMEOUT)
    assert told.status_code != 500, told.text
    assert "Traceback" not in told.text
    if told.status_code >= 400 and case.path.startswith("/v1"):
        assert told.json()["error"]["message"]
