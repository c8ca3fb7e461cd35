from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from sharedllm import MemoryDocument, SharedLLM, open_memory
from sharedllm.encoding import document_encoder
from sharedllm_integrations.serving import add_key, catalog
from sharedllm_integrations.serving.catalog import UNFINISHED_S, Catalog
from sharedllm_integrations.serving.wire import MemberBody
from tests.integrations.serving.conftest import Serve, client_of, read, until
from tests.texts import FERRY, GARDEN, STORY


def upload(client: openai.OpenAI, text: str, name: str = "a.txt") -> str:
    return client.files.create(file=(name, text.encode()), purpose="assistants").id


def test_files_are_kept_listed_and_deleted(serve: Serve, tmp_path: Path) -> None:
    client = client_of(serve())
    ids = [upload(client, text, f"{n}.txt") for n, text in enumerate((STORY, FERRY, GARDEN))]
    assert [file.id for file in client.files.list()] == ids[::-1]
    first = client.files.list(limit=2, order="asc")
    assert [file.id for file in first.data] == ids[:2]
    assert first.has_more
    assert [file.id for file in client.files.list(limit=1, order="asc")] == ids  # three pages
    assert client.files.retrieve(ids[0]).bytes == len(STORY.encode())
    assert client.files.content(ids[0]).read() == STORY.encode()
    assert client.files.delete(ids[0]).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(ids[0])
    assert len(list((tmp_path / "served" / "server" / "files").iterdir())) == 2


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b.txt", "..", "\x00.txt", "x" * 400])
def test_a_files_name_names_nothing_on_disk(serve: Serve, tmp_path: Path, name: str) -> None:
    client = client_of(serve())
    made = client.files.create(file=(name, b"text"), purpose="assistants")
    assert "/" not in made.filename
    [kept] = (tmp_path / "served" / "server" / "files").iterdir()
    assert kept.name.startswith(made.id)


def test_uploads_that_are_too_long_or_empty_are_refused(serve: Serve, tmp_path: Path) -> None:
    address = serve(max_upload=100)
    for size, status in ((101, 413), (10**6, 413), (0, 400)):
        told = httpx.post(
            f"{address}/v1/files",
            data={"purpose": "assistants"},
            files={"file": ("a.txt", b"x" * size)},
        )
        assert told.status_code == status, told.text
        assert told.json()["error"]["message"]
    assert not list((tmp_path / "served" / "server" / "files").iterdir())


def test_a_store_reads_searches_filters_and_forgets(serve: Serve) -> None:
    client = client_of(serve())
    store = client.vector_stores.create(name="Village", metadata={"of": "Penmor"})
    ferry = read(client, store.id, FERRY, "ferry.txt", attributes={"year": 1900, "kind": "boat"})
    garden = read(client, store.id, GARDEN, "garden.txt", attributes={"year": 1950})
    told = client.vector_stores.retrieve(store.id)
    assert (told.name, told.status, told.file_counts.completed) == ("Village", "completed", 2)
    assert told.usage_bytes
    hits = client.vector_stores.search(store.id, query="What does a ticket cost?").data
    assert {hit.file_id for hit in hits} == {ferry, garden}
    for given, found in (
        ({"type": "eq", "key": "kind", "value": "boat"}, {ferry}),
        ({"type": "ne", "key": "kind", "value": "boat"}, {garden}),
        ({"type": "gte", "key": "year", "value": 1950}, {garden}),
        ({"type": "in", "key": "year", "value": [1900, 1950]}, {ferry, garden}),
        (
            {
                "type": "or",
                "filters": [
                    {"type": "lt", "key": "year", "value": 1901},
                    {"type": "eq", "key": "kind", "value": "none"},
                ],
            },
            {ferry},
        ),
        ({"type": "eq", "key": "year", "value": 1}, set()),
    ):
        filters: Any = given
        page = client.vector_stores.search(store.id, query="a ticket", filters=filters)
        assert {hit.file_id for hit in page.data} == found, given
    client.vector_stores.files.update(ferry, vector_store_id=store.id, attributes={"year": 2000})
    later: Any = {"type": "eq", "key": "year", "value": 2000}
    page = client.vector_stores.search(store.id, query="a ticket", filters=later)
    assert {hit.file_id for hit in page.data} == {ferry}
    assert page.data[0].attributes == {"year": 2000}
    client.vector_stores.files.delete(ferry, vector_store_id=store.id)
    page = client.vector_stores.search(store.id, query="a ticket")
    assert {hit.file_id for hit in page.data} == {garden}
    assert client.files.retrieve(ferry).id == ferry  # the upload stays
    client.files.delete(garden)
    assert client.vector_stores.search(store.id, query="a ticket").data == []
    assert client.vector_stores.delete(store.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.retrieve(store.id)


@pytest.mark.parametrize(
    "given",
    [
        {"type": "eq", "key": "year"},
        {"type": "like", "key": "year", "value": 1},
        {"type": "in", "key": "year", "value": 1},
        {"type": "eq", "key": "year", "value": [1]},
        {"type": "and", "filters": []},
        {"type": "and", "filters": ["x"]},
        {"type": "eq", "key": "year", "value": None},
        {"type": "gt", "key": "year", "value": True},
        {},
    ],
)
def test_filters_of_another_form_are_refused(shared_address: str, given: dict[str, Any]) -> None:
    client = client_of(shared_address)
    filters: Any = given
    store = client.vector_stores.create(name="filtered").id
    read(client, store, FERRY, "ferry.txt")
    with pytest.raises(openai.BadRequestError):
        client.vector_stores.search(store, query="x", filters=filters)


HALF = "\ud800"  # of a surrogate pair


@pytest.mark.parametrize(
    ("path", "given", "status"),
    [
        ("", {"name": HALF}, 400),
        ("", {"name": "x" * 513}, 400),
        ("", {"metadata": {HALF: "x"}}, 400),
        ("", {"metadata": {"x": HALF}}, 400),
        ("", {"metadata": {str(n): "x" for n in range(17)}}, 400),
        ("", {"file_ids": [HALF]}, 400),
        ("", {"file_ids": ["file-no"]}, 404),
        ("", {"expires_after": {"anchor": "last_active_at", "days": 1}}, 400),
        ("/vs_main/files", {"file_id": HALF}, 400),
        ("/vs_main/files", {"file_id": "file-no"}, 404),
        ("/vs_main/files", {"file_id": "x", "attributes": {"a": 10**400}}, 400),
        ("/vs_main/files", {"file_id": "x", "attributes": {"a": [1]}}, 400),
        ("/vs_no/files", {"file_id": "x"}, 404),
        ("/vs_main/search", {"query": HALF}, 400),
        ("/vs_main/search", {"query": []}, 400),
        ("/vs_main/search", {"query": "x", "max_num_results": 0}, 400),
        ("/vs_main/search", {"query": "x", "rewrite_query": True}, 400),
        ("/vs_main/file_batches", {}, 400),
        ("/vs_main/file_batches", {"file_ids": []}, 400),
        ("/vs_main/file_batches/vsfb_no/cancel", {}, 404),
    ],
)
def test_bodies_that_cannot_be_used_are_refused(
    shared_address: str, path: str, given: dict[str, Any], status: int
) -> None:
    told = httpx.post(
        f"{shared_address}/v1/vector_stores{path}",
        content=json.dumps(given),
        headers={"content-type": "application/json"},
    )
    assert told.status_code == status, told.text
    assert told.json()["error"]["message"]


def test_whole_numbers_stay_whole() -> None:
    made = MemberBody.model_validate_json('{"file_id": "x", "attributes": {"a": 1900, "b": 0.5}}')
    assert json.dumps(made.attributes) == '{"a": 1900, "b": 0.5}'


def test_what_expires_is_refused_with_the_reason(shared_address: str) -> None:
    client = client_of(shared_address)
    after: Any = {"anchor": "last_active_at", "days": 7}
    made = client.vector_stores.create(name="s", description="of boats")
    assert client.vector_stores.retrieve(made.id).model_extra == {"description": "of boats"}
    changed: Any = client.vector_stores.update(made.id, extra_body={"description": "of ships"})
    assert (changed.name, changed.description) == ("s", "of ships")
    for refused in (
        lambda: client.vector_stores.create(expires_after=after),
        lambda: client.vector_stores.update(made.id, expires_after=after),
        lambda: client.files.create(
            file=("a.txt", b"x"),
            purpose="assistants",
            expires_after={"anchor": "created_at", "seconds": 3600},
        ),
    ):
        with pytest.raises(openai.BadRequestError, match="nothing expires here"):
            refused()
    static: Any = {"type": "static", "static": {"max_chunk_size_tokens": 800}}
    with pytest.raises(openai.BadRequestError, match="chunking_strategy"):
        client.vector_stores.create(chunking_strategy=static)


@dataclass
class Clock:
    at: int

    def time(self) -> int:
        return self.at


def test_the_last_use_of_a_store_is_told(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "ACTIVE_S", -1)
    client = client_of(serve())
    read(client, "vs_main", GARDEN, "garden.txt")

    def active() -> int:
        return client.vector_stores.retrieve("vs_main").last_active_at or 0

    now = itertools.count(int(time.time()), 1000)
    asked: Any = [{"role": "user", "content": "What did Odile grow?"}]
    model = client.models.list().data[0].id
    for use in (
        lambda: client.vector_stores.search("vs_main", query="roses"),
        lambda: client.chat.completions.create(model=model, messages=asked, max_tokens=1),
        lambda: client.vector_stores.update("vs_main", name="garden"),
    ):
        at = next(now)
        monkeypatch.setattr(catalog, "time", Clock(at))
        use()
        assert active() == at


@pytest.mark.parametrize("id", ["a/b", "a/b/content", "/a", "a%2Fb", "ä ?#.txt", "a/../b"])
def test_any_id_of_an_index_can_be_named(serve: Serve, filled: Path, id: str) -> None:
    memory = open_memory(filled)
    memory.add(MemoryDocument(id=id, text="Roses grow in the garden of Odile."))
    client = client_of(serve())
    files = client.vector_stores.files
    assert files.retrieve(id, vector_store_id="vs_main").id == id
    [part] = files.content(id, vector_store_id="vs_main").data
    assert part.text == memory.get(id).text
    assert files.update(id, vector_store_id="vs_main", attributes={"a": 1}).attributes == {"a": 1}
    assert files.delete(id, vector_store_id="vs_main").id == id
    assert id not in memory
    with pytest.raises(openai.NotFoundError):
        files.retrieve(id, vector_store_id="vs_main")


def test_unknown_cursors_are_refused(shared_address: str) -> None:
    for path in ("files", "vector_stores", "vector_stores/vs_main/files"):
        told = httpx.get(f"{shared_address}/v1/{path}", params={"after": "no"})
        assert told.status_code == 400
        assert "no" in told.json()["error"]["message"]


def test_batches_and_files_that_cannot_be_read(serve: Serve) -> None:
    client = client_of(serve())
    store = client.vector_stores.create(name="s")
    good = upload(client, GARDEN)
    bad = upload(client, "%PDF-1.4 broken", "broken.pdf")
    batch = client.vector_stores.file_batches.create_and_poll(
        store.id, file_ids=[good, bad], poll_interval_ms=20, attributes={"a": True}
    )
    assert (batch.file_counts.completed, batch.file_counts.failed) == (1, 1)
    failed = client.vector_stores.files.list(store.id, filter="failed").data
    assert [one.id for one in failed] == [bad]
    error = failed[0].last_error
    assert error is not None
    assert "broken.pdf" in error.message
    assert "/server/" not in error.message  # nor where the server keeps it
    listed = client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id)
    assert {one.id for one in listed} == {good, bad}
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.file_batches.create(store.id, file_ids=[good, "file-no"])
    assert client.vector_stores.retrieve(store.id).file_counts.total == 2


def test_the_main_memory_is_a_store(serve: Serve, filled: Path) -> None:
    client = client_of(serve())
    [main] = client.vector_stores.list().data
    assert (main.id, main.file_counts.completed) == ("vs_main", 3)
    ids = {one.id for one in client.vector_stores.files.list(main.id)}
    assert ids == {"story", "ferry", "garden"}
    client.vector_stores.files.delete("ferry", vector_store_id=main.id)
    assert client.vector_stores.retrieve(main.id).file_counts.completed == 2
    with pytest.raises(openai.BadRequestError):
        client.vector_stores.delete(main.id)


def test_what_was_left_unread_is_read_after_a_start(
    serve: Serve, llm: SharedLLM, tmp_path: Path
) -> None:
    client = client_of(serve(memory=tmp_path / "a"))
    id = upload(client, GARDEN)
    catalog = Catalog(tmp_path / "a" / "server")  # as a crash leaves it: wanted, and not read
    catalog.add_members("vs_main", [(id, {})])
    (tmp_path / "a" / "server" / "files" / "file-cut.part").write_bytes(b"half")
    age(tmp_path / "a" / "server" / "files" / "file-cut.part")
    catalog.close()
    again = client_of(serve(memory=tmp_path / "a"))
    for _ in range(500):
        if again.vector_stores.retrieve("vs_main").file_counts.completed:
            break
        time.sleep(0.02)
    assert again.vector_stores.files.retrieve(id, vector_store_id="vs_main").status == "completed"
    assert not list((tmp_path / "a" / "server" / "files").glob("*.part"))


def test_deletions_that_a_crash_cut_off_are_finished(serve: Serve, tmp_path: Path) -> None:
    client = client_of(serve(memory=tmp_path / "a"))
    store = client.vector_stores.create(name="s").id
    gone = [read(client, place, FERRY, "ferry.txt") for place in ("vs_main", store)]
    kept = read(client, "vs_main", GARDEN, "garden.txt")
    other = client.vector_stores.create(name="other").id
    read(client, other, FERRY, "ferry.txt")
    catalog = Catalog(tmp_path / "a" / "server")  # the rows go first
    for id in gone:
        catalog.forget_file(id)
    catalog.forget_store(other)
    catalog.close()
    again = client_of(serve(memory=tmp_path / "a"))
    assert [one.id for one in again.vector_stores.files.list("vs_main")] == [kept]
    assert list(again.vector_stores.files.list(store)) == []
    assert [path.name for path in (tmp_path / "a" / "server" / "stores").iterdir()] == [store]


def age(path: Path) -> None:
    """Make bytes so old that no process can be writing them."""
    os.utime(path, (0, time.time() - UNFINISHED_S - 60))


KILLED = """
import io, os, signal, sys
from pathlib import Path
from sharedllm_integrations.serving import add_key, catalog
from sharedllm_integrations.serving.catalog import UNFINISHED_S, Catalog
from sharedllm_integrations.serving.wire import MemberBody
folder = Path(sys.argv[1])
folder.mkdir()
catalog = Catalog(folder)
while True:
    data = io.BytesIO(os.urandom(100_000))
    print(catalog.keep(data, "a.txt", "assistants", 1 << 20).id, flush=True)
"""


def test_acknowledged_uploads_survive_a_kill(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    told = [process.stdout.readline().strip() for _ in range(5)]
    os.kill(process.pid, signal.SIGKILL)
    told += process.stdout.read().split()
    process.wait()
    process.stdout.close()
    catalog = Catalog(folder)
    kept = {file.id: file for file in catalog.files()}
    for id in told:
        if len(id) == len(told[0]):  # the last line may be cut
            assert catalog.path(kept[id]).stat().st_size == 100_000
    for path in (folder / "files").iterdir():
        age(path)
    catalog.close()
    catalog = Catalog(folder)
    assert {path.name for path in (folder / "files").iterdir()} == {
        catalog.path(file).name for file in kept.values()
    }
    catalog.close()


def test_bytes_that_another_process_is_writing_stay(tmp_path: Path) -> None:
    with contextlib.closing(Catalog(tmp_path)):
        (tmp_path / "files" / "file-now.part").write_bytes(b"half")
        Catalog(tmp_path).close()
        assert (tmp_path / "files" / "file-now.part").exists()


def _is_read(client: openai.OpenAI, store: str) -> bool:
    return client.vector_stores.retrieve(store).file_counts.completed == 1


def test_several_servers_share_a_folder(serve: Serve, tmp_path: Path) -> None:
    """One reads what the others take, and all answer from it."""
    others = [client_of(serve(memory=tmp_path / "a", ingests=False)) for _ in range(2)]
    garden = upload(others[0], GARDEN)
    others[0].vector_stores.files.create(file_id=garden, vector_store_id="vs_main")
    store = others[1].vector_stores.create(name="s").id
    ferry = upload(others[0], FERRY)
    others[0].vector_stores.files.create(file_id=ferry, vector_store_id=store)
    waiting = others[1].vector_stores.files.retrieve(garden, vector_store_id="vs_main")
    assert waiting.status == "in_progress"
    serve(memory=tmp_path / "a")
    for client in others:
        until(partial(_is_read, client, store))
        assert client.vector_stores.retrieve("vs_main").file_counts.completed == 1
        assert client.vector_stores.search(store, query="ferry").data[0].file_id == ferry
    others[1].files.delete(ferry)
    assert list(others[0].vector_stores.files.list(store)) == []
    assert others[0].vector_stores.search(store, query="ferry").data == []


def test_a_file_is_read_though_a_tenant_first_spoke_to_another_server(
    serve: Serve, tmp_path: Path
) -> None:
    keys = {name: add_key(tmp_path / "keys.json", name) for name in ("acme", "other")}
    folder = {"memory": tmp_path / "tenants", "keys": tmp_path / "keys.json"}
    serve(**folder)
    client = client_of(serve(**folder, ingests=False), keys["acme"])
    assert read(client, "vs_main", GARDEN, "garden.txt")


def test_an_upload_of_unknown_length_is_bounded(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    with pytest.raises(Exception, match="more than 10 bytes"):
        catalog.keep(io.BytesIO(b"x" * 11), "a", "assistants", 10)
    assert catalog.files() == []
    catalog.close()


def test_a_files_status_says_how_far_it_is_read(
    serve: Serve, llm: SharedLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document_encoder, "PATIENCE_S", 60)
    address = serve()
    client = client_of(address)
    first, second = upload(client, STORY * 5), upload(client, GARDEN)

    def told(id: str) -> tuple[str, int, int | None]:
        file = client.vector_stores.files.retrieve(id, vector_store_id="vs_main")
        own: Any = file.model_extra
        assert set(own["sharedllm"]) == {"tokens_read", "tokens"}
        return file.status, own["sharedllm"]["tokens_read"], own["sharedllm"]["tokens"]

    with llm.encoder.lock.question():  # ingestion waits for it
        for id in (first, second):
            client.vector_stores.files.create(file_id=id, vector_store_id="vs_main")
        until(lambda: told(first)[2] is not None)
        status, done, tokens = told(first)
        assert (status, done) == ("in_progress", 0)
        assert told(second) == ("in_progress", 0, None)
        listed: Any = client.vector_stores.files.list("vs_main", order="asc").data[0].model_extra
        assert listed["sharedllm"] == {"tokens_read": 0, "tokens": tokens}
        assert "sharedllm:num_files_waiting 1.0" in httpx.get(f"{address}/metrics").text
    until(lambda: told(second)[0] == "completed")
    assert told(first) == ("completed", tokens, tokens)
    until(lambda: "sharedllm:ingest_lag_seconds 0.0" in httpx.get(f"{address}/metrics").text)
    figures = httpx.get(f"{address}/metrics").text
    assert f"sharedllm:ingested_tokens_total {tokens + told(second)[1]}.0" in figures
