"""What the page asks for beyond OpenAI's API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from sharedllm import MemoryDocument, SharedLLM, open_memory
from sharedllm_integrations.serving import add_key
from sharedllm_integrations.serving.page import FILES, MOST_CHARACTERS
from tests.integrations.serving.conftest import Serve, client_of, model_of, read
from tests.texts import FERRY, STORY

STORE = "page/stores/vs_main"


def asked(question: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}], **more}


def test_documents_with_their_names(serve: Serve, filled: Path) -> None:
    address = serve()
    id = read(client_of(address), "vs_main", FERRY, "new_ferry.pdf.txt", attributes={"year": 1902})
    found = {one["id"]: one for one in httpx.get(f"{address}/{STORE}/documents").json()["data"]}
    assert found["story"]["name"] == "The lighthouse"
    assert found["story"]["characters"] == len(STORY)
    assert found["story"]["attributes"] == {"year": 1871, "place": "Penmor"}
    assert not found["story"]["uploaded"]
    new = found[id]
    assert (new["name"], new["uploaded"], new["pdf"], new["stores"]) == (
        "new ferry.pdf",
        True,
        False,
        1,
    )
    assert new["status"] == "completed"


def test_a_part_of_a_text(serve: Serve, llm: SharedLLM, tmp_path: Path) -> None:
    text = "# One\nfirst page\fsecond \U0001f98a page\f# Two\nthird"
    document = MemoryDocument(id="notes/2026/a.md", text=text)
    open_memory(tmp_path / "served", llm=llm, create=True).add(document)
    given: dict[str, Any] = {"document": "notes/2026/a.md", "start": 17, "end": 27}
    found = httpx.get(f"{serve()}/{STORE}/text", params=given).json()
    assert found["text"] == text[17:27] == "second \U0001f98a p"
    assert found["pages"] == [0, 17, 31]
    assert (found["characters"], found["start"]) == (len(text), 17)
    assert found["sections"] == [
        {"title": one.title, "level": one.level, "start": one.start}
        for one in document.outline or ()
    ]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("page/static/nothing.js", 404),
        ("page/static/..%2fpage.py", 404),
        ("page/stores/vs_none/documents", 404),
        (f"{STORE}/text?document=none", 404),
        (f"{STORE}/text?document=story&end={MOST_CHARACTERS + 1}", 400),
        (f"{STORE}/text?document=story&start=-1", 400),
        (f"{STORE}/text", 400),
    ],
)
def test_what_is_not_there(library: str, path: str, status: int) -> None:
    found = httpx.get(f"{library}/{path}")
    assert found.status_code == status
    assert found.json()["error"]["message"]


def test_trees_with_their_scores(library: str) -> None:
    body = asked("When does the ferry leave?")
    trees = httpx.post(f"{library}/{STORE}/trees", json=body).json()["data"]
    assert trees
    for tree in trees:
        root, *rest = tree["nodes"]
        assert root["level"] == 0
        assert any(node["chosen"] for node in tree["nodes"])
        assert all(root["start"] <= node["start"] < node["end"] <= root["end"] for node in rest)
    only = {"type": "in", "key": "id", "value": ["garden"]}
    found = httpx.post(f"{library}/{STORE}/trees", json={**body, "filters": only}).json()["data"]
    assert {tree["document"] for tree in found} == {"garden"}


@pytest.mark.parametrize(
    "body",
    [
        {"messages": []},
        {"messages": [{"role": "assistant", "content": "x"}]},
        {"messages": [{"role": "system", "content": "x"}]},
        asked("x", filters={"type": "eq", "key": "id", "value": "none"}),
        asked("x", filters={"type": "odd"}),
        asked("x", looks=3),
        asked("x", other=1),
        asked("  "),
    ],
)
def test_trees_of_no_question(library: str, body: dict[str, Any]) -> None:
    found = httpx.post(f"{library}/{STORE}/trees", json=body)
    assert found.status_code == 400
    assert found.json()["error"]["type"] == "invalid_request_error"


def test_data_needs_the_tenants_key(serve: Serve, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    a, b = add_key(keys, "a"), add_key(keys, "b")
    address = serve(keys=keys)
    store = client_of(address, a).vector_stores.create(name="A").id
    file = read(client_of(address, a), store, FERRY, "ferry.txt")
    for path in ("", "page/static/app.js"):  # hold nothing of a tenant's
        assert httpx.get(f"{address}/{path}").status_code == 200
    own, body = f"{address}/page/stores/{store}", asked("When?")
    text = f"{own}/text?document={file}"

    def statuses(headers: dict[str, str]) -> list[int]:
        got = [httpx.get(path, headers=headers) for path in (f"{own}/documents", text)]
        return [
            one.status_code
            for one in (*got, httpx.post(f"{own}/trees", json=body, headers=headers))
        ]

    assert statuses({}) == [401] * 3
    assert statuses({"authorization": f"Bearer {b}"}) == [404] * 3
    assert statuses({"authorization": f"Bearer {a}"}) == [200] * 3


def test_the_first_chunk_tells_the_evidence(library: str) -> None:
    client = client_of(library)
    asked_: Any = {"model": model_of(client), "max_tokens": 3, "stream": True}
    chunks = list(client.chat.completions.create(**asked("When does the ferry leave?"), **asked_))
    first, last = (one.model_extra["sharedllm"] for one in (chunks[0], chunks[-1]))  # type: ignore[index]
    assert first["citations"]
    assert first["citations"] == last["citations"]
    assert last["abstains"] is False


def test_other_sites_do_not_get_the_page(library: str) -> None:
    assert httpx.get(library, headers={"host": "evil.example"}).status_code == 403


def test_every_file_has_the_policy(library: str) -> None:
    kinds = {
        ".html": "text/html",
        ".js": "text/javascript",
        ".css": "text/css",
        ".svg": "image/svg+xml",
    }
    for name, path in FILES.items():
        found = httpx.get(f"{library}/page/static/{name}")
        assert found.content == path.read_bytes()
        assert found.headers["content-type"].startswith(kinds[path.suffix])
        assert found.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in found.headers["content-security-policy"]
