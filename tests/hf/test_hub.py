"""The hub: asked once, and what is said when it does not answer or has no such model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

from sharedllm.cli.main import main
from sharedllm.errors import ModelNotFoundError
from sharedllm.hf import hub, loading
from sharedllm.hf.models import BY_NAME
from tests.hf.published import COMMIT, lay_out

CPU = torch.device("cpu")
QWEN = BY_NAME["qwen3-1.7b"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException | None], list[str]]:
    """Makes the hub answer with an error, or have the model; returns what it was asked."""

    def answer(error: BaseException | None) -> list[str]:
        asked: list[str] = []

        def model_info(self: Any, name: str, **options: Any) -> None:
            asked.append(name)
            if error is not None:
                raise error

        monkeypatch.setattr(hub, "is_offline_mode", lambda: False)
        monkeypatch.setitem(hub._unanswered, "since", float("-inf"))
        monkeypatch.setattr(HfApi, "model_info", model_info)
        return asked

    return answer


def response(status: int) -> Any:
    return httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co"))


def load(name: str, **options: Any) -> Any:
    return loading.load(name, device=CPU, dtype=torch.float32, **options)


UNREACHABLE = [
    httpx.ConnectError("[Errno -2] Name or service not known"),
    httpx.ConnectTimeout("timed out"),
    httpx.ReadTimeout("timed out"),
    httpx.ProxyError("403 Forbidden"),
    HfHubHTTPError("502 Bad Gateway", response=response(502)),
]


@pytest.mark.parametrize("error", UNREACHABLE, ids=lambda error: type(error).__name__)
def test_what_is_cached_loads_without_a_network_after_one_question(
    error: BaseException, cache: Path, online: Callable[..., list[str]]
) -> None:
    lay_out(QWEN, cache)
    asked = online(error)
    load("qwen3-1.7b")
    load("qwen3-1.7b")  # HF_HUB_OFFLINE is set in tests: any other request would be refused
    assert asked == [QWEN.hub]
    options = hub.look_up(QWEN.hub, {})
    assert options["local_files_only"]
    assert options["adapter_kwargs"]["local_files_only"]


@pytest.mark.parametrize("error", UNREACHABLE, ids=lambda error: type(error).__name__)
def test_what_is_not_cached_is_said_with_the_way_offline(
    error: BaseException, cache: Path, online: Callable[..., list[str]]
) -> None:
    online(error)
    with pytest.raises(ModelNotFoundError) as raised:
        load("qwen3-8b")
    message = str(raised.value)
    assert message.startswith(f"huggingface.co cannot be reached, and {cache} does not hold all of")
    assert "hf download Qwen/Qwen3-8B" in message
    assert "docs/howto/offline.md" in message
    assert "\n" not in message


def test_the_command_says_it_in_one_line(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("A river.")
    question = ["ask", str(tmp_path / "a.txt"), "-q", "What?"]
    assert main([*question, "--model", "gemma3-4b"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "HF_HUB_OFFLINE restricts this to the local cache" in line
    assert "'google/gemma-3-4b-it'" in line
    assert main([*question, "--model", "gema3-4b"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "nearest: gemma3-4b" in line


def test_half_a_model_in_the_cache(cache: Path) -> None:
    snapshot = lay_out(QWEN, cache)
    (snapshot / "model.safetensors").unlink()
    assert hub.cached() == {}
    with pytest.raises(ModelNotFoundError, match="does not hold all of 'Qwen/Qwen3"):
        load("qwen3-1.7b")


def test_a_slip_in_a_hub_name_offline(cache: Path) -> None:
    lay_out(QWEN, cache)
    with pytest.raises(ModelNotFoundError, match=r"meant: Qwen/Qwen3-1\.7B, .*\? Else fetch it"):
        load("Qwen/Qwen3-1.7")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (GatedRepoError("no", response=response(403)), "gated: accept its terms at https://"),
        (RepositoryNotFoundError("no", response=response(404)), "nearest: google/gemma-3-4b-it"),
        (RevisionNotFoundError("no", response=response(404)), "no such revision"),
    ],
)
def test_the_hub_refuses(
    error: BaseException, message: str, cache: Path, online: Callable[..., list[str]]
) -> None:
    online(error)
    with pytest.raises(ModelNotFoundError, match=message):
        load("google/gemma-3-4b-it")


def test_what_was_fetched_before_its_terms_changed_still_loads(
    cache: Path, online: Callable[..., list[str]]
) -> None:
    lay_out(QWEN, cache)
    online(GatedRepoError("no", response=response(403)))
    load("qwen3-1.7b")


@pytest.mark.parametrize("name", ["a b", "x/y/z", "-x", "a//b", "ein Name", "x" * 97])
def test_names_that_no_model_can_have(name: str, cache: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no model is called"):
        load(name)


def test_only_whole_models_count_as_cached(cache: Path) -> None:
    assert hub.cached() == {}
    snapshot = lay_out(QWEN, cache)
    assert set(hub.cached()) == {QWEN.hub}
    assert hub.cached()[QWEN.hub] > (snapshot / "model.safetensors").stat().st_size
    (snapshot / "model.safetensors").rename(snapshot / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (snapshot / hub.INDEX).write_text(json.dumps({"weight_map": shards}))
    assert hub.cached() == {}
    (snapshot / "model-00002-of-00002.safetensors").write_bytes(b"")
    assert set(hub.cached()) == {QWEN.hub}
    (snapshot / "config.json").unlink()
    assert hub.cached() == {}
    other = cache / "datasets--a--b" / "snapshots" / COMMIT
    other.mkdir(parents=True)
    (other / "config.json").write_text("{}")
    (other / "model.safetensors").write_bytes(b"")
    assert hub.cached() == {}


def test_no_cache_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "nothing"))
    assert hub.cached() == {}
