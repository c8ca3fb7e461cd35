from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from pydantic import ValidationError

import sharedllm_integrations.serving
from sharedllm import SharedLLM
from sharedllm.cli.main import main
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.serving import ServerConfig, add_key, load_model
from sharedllm_integrations.serving.keys import KeyFile
from tests.integrations.serving.conftest import Serve, client_of, model_of, read
from tests.texts import FERRY, GARDEN


def test_a_tenant_sees_its_own_only(serve: Serve, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    address = ""
    names = {name: add_key(keys, name, operator=name == "ops") for name in ("a", "b", "ops")}
    address = serve(keys=keys)
    a, b = client_of(address, names["a"]), client_of(address, names["b"])
    store = a.vector_stores.create(name="A")
    file = read(a, store.id, FERRY, "ferry.txt")
    read(a, "vs_main", FERRY, "ferry.txt")
    assert list(b.files.list()) == []
    assert [one.id for one in b.vector_stores.list()] == ["vs_main"]
    assert b.vector_stores.search("vs_main", query="ticket").data == []
    for refused in (
        lambda: b.files.retrieve(file),
        lambda: b.files.content(file),
        lambda: b.files.delete(file),
        lambda: b.vector_stores.retrieve(store.id),
        lambda: b.vector_stores.search(store.id, query="ticket"),
        lambda: b.vector_stores.files.create(file_id=file, vector_store_id="vs_main"),
        lambda: b.vector_stores.delete(store.id),
        lambda: b.vector_stores.files.retrieve(file, vector_store_id=store.id),
    ):
        with pytest.raises(openai.NotFoundError):
            refused()
    search: Any = {"type": "file_search", "vector_store_ids": [store.id]}
    asked: Any = {"messages": [{"role": "user", "content": "What is told?"}], "max_tokens": 2}
    with pytest.raises(openai.NotFoundError):
        b.chat.completions.create(model=model_of(b), tools=[search], **asked)
    told: Any = b.chat.completions.create(model=model_of(b), **asked).model_extra
    assert told["sharedllm"]["citations"] == []
    assert (tmp_path / "served" / "a" / "memory.sqlite").exists()


def test_wrong_keys_are_refused(serve: Serve, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    key, operator = add_key(keys, "a"), add_key(keys, "ops", operator=True)
    address = serve(keys=keys)
    for given in ("", "Bearer", "Bearer x", f"Basic {key}", f"Bearer {key}x", f"Bearer {key[:-1]}"):
        told = httpx.get(f"{address}/v1/models", headers={"authorization": given})
        assert told.status_code == 401, given
        assert told.json()["error"]["code"] == "invalid_api_key"
    with pytest.raises(openai.AuthenticationError):
        client_of(address, "sk-no").models.list()
    for given, status in ((key, 403), (operator, 200), ("x", 401)):
        told = httpx.get(f"{address}/metrics", headers={"authorization": f"Bearer {given}"})
        assert told.status_code == status
    assert httpx.get(f"{address}/health").status_code == 200


def test_the_file_of_keys_holds_hashes_only(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    first, second = add_key(path, "a"), add_key(path, "a")
    held = KeyFile.read(path)
    assert first not in path.read_text()
    assert (held.tenant_of(first), held.tenant_of(second)) == ("a", "a")
    assert held.tenant_of("") is None
    assert path.stat().st_mode & 0o077 == 0
    for wrong in ("[]", "{", '{"tenants": {"../x": {}}}', '{"tenants": {"a": {"hashes": ["x"]}}}'):
        path.write_text(wrong)
        with pytest.raises(SetupError, match="no file of keys"):
            KeyFile.read(path)
    for name in ("", "A", "../x", "a/b", "-a", "a" * 65, "a\n"):
        with pytest.raises(SetupError, match="tenant"):
            add_key(tmp_path / "others.json", name)
    assert not (tmp_path / "others.json").exists()


@pytest.mark.parametrize(
    "given",
    [
        {"host": "0.0.0.0"},
        {"host": "example.org"},
        {"port": -1},
        {"port": 70_000},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"max_waiting": -1},
        {"max_tokens": 0},
        {"memory": ""},
        {"memory": "a\0b"},
        {"surprise": 1},
    ],
)
def test_settings_that_cannot_be_used_are_refused(tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(SetupError) as caught:
        ServerConfig.of(**{"memory": tmp_path, **given})
    assert not isinstance(caught.value, ValidationError)


def test_a_memory_is_no_folder_of_tenants(filled: Path, tmp_path: Path, llm: SharedLLM) -> None:
    add_key(tmp_path / "keys.json", "a")
    with pytest.raises(SetupError, match="folder of the tenants"):
        load_model(ServerConfig.of(memory=filled, keys=tmp_path / "keys.json"))


@pytest.mark.parametrize("keys", [False, True])
def test_a_file_is_no_folder_to_serve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: bool
) -> None:
    """Refused in one line before the server starts, also where the folder above is a file."""
    file, given = tmp_path / "file.txt", []
    file.write_text("text")
    if keys:
        add_key(tmp_path / "keys.json", "a")
        given = ["--keys", str(tmp_path / "keys.json")]
    for memory in (file, file / "below"):
        assert main(["serve", "--memory", str(memory), "--port", "0", *given]) == 2
        told = capsys.readouterr().err
        assert "Traceback" not in told
        assert str(memory) in told
    assert file.read_text() == "text"


def test_the_command_line_makes_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys.json"
    assert main(["serve-key", "acme", "--keys", str(path)]) == 0
    key = capsys.readouterr().out.strip()
    assert KeyFile.read(path).tenant_of(key) == "acme"
    assert not json.loads(path.read_text())["tenants"]["acme"]["operator"]
    assert main(["serve-key", "../x", "--keys", str(path)]) == 2
    wide = ["serve", "--memory", str(tmp_path / "m"), "--host", "0.0.0.0"]
    assert main(wide) == 2
    assert "there are no keys" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_an_address_that_is_taken_is_refused(tmp_path: Path, shared_address: str) -> None:
    port = shared_address.rpartition(":")[2]
    assert main(["serve", "--memory", str(tmp_path / "m"), "--port", port]) == 2
    assert not (tmp_path / "m").exists()


def test_caches_are_apart(serve: Serve, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    names = [add_key(keys, name) for name in ("a", "b")]
    address = serve(keys=keys)
    long = f"{GARDEN} " * 80
    for key in names:  # the second tenant's usage does not tell that the first one read it
        client = client_of(address, key)
        asked: Any = [{"role": "user", "content": f"{long}\n\nQuestion: What did Odile grow?"}]
        made = client.chat.completions.create(model=model_of(client), messages=asked, max_tokens=2)
        assert made.usage is not None
        details = made.usage.prompt_tokens_details
        assert details is not None
        assert details.cached_tokens == 0


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client"])
def test_a_missing_extra_is_named(
    package: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # put back at the end, with what its modules are found by
    monkeypatch.setattr(sharedllm_integrations, "serving", sharedllm_integrations.serving)
    for name in [name for name in sys.modules if name.startswith("sharedllm_integrations.serving")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["serve", "--memory", str(tmp_path / "m")]) == 2
    told = capsys.readouterr().err
    assert package in told
    assert "sharedllm[serve]" in told
    assert not (tmp_path / "m").exists()
