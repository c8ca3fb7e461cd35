"""A model that cannot fit is refused before its weights are read."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sharedllm import SharedLLM
from sharedllm.cli.main import main
from sharedllm.errors import ModelTooLargeError
from sharedllm.hf import room
from sharedllm.hf.models import BY_NAME, gib
from sharedllm.hf.room import Memory, Weights, memory_of, require_room, weigh
from tests.hf.published import published

CPU = torch.device("cpu")
GIB = 1 << 30
MISTRAL = Weights(BY_NAME["mistral-7b"].parameters, BY_NAME["mistral-7b"].packed)


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the memory of this machine."""

    def put(total: float, free: float | None = None) -> None:
        memory = Memory(int(total), int(total if free is None else free))
        monkeypatch.setattr(room, "memory_of", lambda device: memory)

    return put


def require(**given: Any) -> None:
    options: dict[str, Any] = {"device": CPU, "dtype": torch.float32, "quantize": None}
    config = given.pop("config", None)
    require_room("it", config, MISTRAL, **{**options, "options": {}, **given})


@pytest.mark.parametrize(
    ("total", "given", "message"),
    [
        (16, {}, "27.0 GiB for its weights in float32, and this machine has 16.0 GiB; it fits with "
         r"--dtype bfloat16 \(13.5 GiB\) or --quantize 8bit"),
        (8, {}, r"it fits with --quantize 8bit \(7.5 GiB\) or --quantize 4bit \(4.4 GiB\)"),
        (8, {"dtype": torch.bfloat16}, "13.5 GiB for its weights in bfloat16"),
        (4.2, {}, r"it fits with --quantize 4bit --dtype bfloat16 \(3.9 GiB\)"),
        (3, {}, r"name a smaller model \(sharedllm models\)"),
        (3, {"quantize": "4bit"}, "4.4 GiB for its weights in 4 bits"),
        (6, {"quantize": "8bit"}, "7.5 GiB for its weights in 8 bits"),
    ],
)  # fmt: skip
def test_too_large(
    total: float, given: dict[str, Any], message: str, there: Callable[..., None]
) -> None:
    there(total * GIB)
    with pytest.raises(ModelTooLargeError, match=message):
        require(**given)


def test_what_fits_only_just_is_tried_with_a_warning(
    there: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    there(28 * GIB)
    with caplog.at_level(logging.WARNING, "sharedllm"):
        require()
    assert caplog.text == ""
    there(28 * GIB, free=4 * GIB)
    with caplog.at_level(logging.WARNING, "sharedllm"):
        require()
    assert "it needs 27.0 GiB for its weights, and this machine has 4.0 GiB free" in caplog.text


@pytest.mark.parametrize("option", room.UNSURE)
def test_nothing_is_refused_where_the_size_is_not_known(
    option: str, there: Callable[..., None]
) -> None:
    there(1)
    require(options={option: "auto"})


def test_weights_published_quantised_take_four_bits_at_least(there: Callable[..., None]) -> None:
    config = published("gpt-oss-20b")
    config.quantization_config = {"quant_method": "fp8"}
    there(4 * GIB)
    require(config=config)
    there(3 * GIB)
    with pytest.raises(ModelTooLargeError, match=r"3\.4 GiB for its weights at least"):
        require(config=config)
    config.quantization_config = {"quant_method": "mxfp4"}  # which a processor unpacks
    there(16 * GIB)
    require(config=config, device=torch.device("cuda", 0))
    with pytest.raises(ModelTooLargeError, match=r"27\.0 GiB .* name a smaller model"):
        require(config=config)


def test_it_is_said_before_weights_are_read(
    tiny_folder: Path,
    tmp_path: Path,
    there: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    there(1000)
    monkeypatch.setattr("sharedllm.hf.loading._from_pretrained", None)
    with pytest.raises(ModelTooLargeError, match=r"this machine has 0\.0 GiB"):
        SharedLLM.from_pretrained(tiny_folder, device="cpu")
    (tmp_path / "a.txt").write_text("A river.")
    assert main(["ask", str(tmp_path / "a.txt"), "-q", "x?", "--model", str(tiny_folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "for its weights" in line


def test_weights_are_counted_without_making_them() -> None:
    config = published("gpt-oss-20b")  # 39 GiB of them
    weights = weigh(config)
    assert weights.parameters == BY_NAME["gpt-oss-20b"].parameters
    assert gib(weights.bytes(torch.bfloat16, None)) == "39.0 GiB"


def test_memory_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "CGROUP_LIMITS", ())
    all_of_it = memory_of(CPU)
    assert 0 < all_of_it.free <= all_of_it.total
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(room, "CGROUP_LIMITS", (tmp_path / "nothing", limit))
    for text, total in (("max\n", None), ("1000\n", 1000), (f"{2**63}", None)):
        limit.write_text(text)
        assert memory_of(CPU).total == (total or all_of_it.total)
        assert memory_of(CPU).free <= memory_of(CPU).total
