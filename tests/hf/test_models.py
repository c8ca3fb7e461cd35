"""Short names: what they stand for, and that each loads offline and answers with citations."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from sharedllm import SharedLLM, loaded
from sharedllm.cli.main import main
from sharedllm.encoding.document_encoder import loaded_encoder
from sharedllm.errors import ModelNotFoundError
from sharedllm.hf.architectures import FAMILIES
from sharedllm.hf.models import BY_NAME, MODELS, KnownModel, hub_name, is_slip, nearest
from sharedllm.hf.room import weigh
from sharedllm.readers.injecting import InjectingReader
from sharedllm.registry import forget
from tests.hf.published import CONFIGS, lay_out, published
from tests.models import make_model, make_tokenizer
from tests.texts import STORY

QUESTION = "Who kept the light?"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local cache of the hub with a small random model for every short name."""
    hub = tmp_path_factory.mktemp("hub")
    for model in MODELS:
        lay_out(model, hub)
    return hub


@pytest.fixture
def hub(filled: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(filled))
    return filled


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_rows_are_the_published_configurations(model: KnownModel) -> None:
    config = published(model.name)
    text, weights = config.get_text_config(), weigh(config)
    assert text.model_type == model.kind
    assert weights.parameters == model.parameters
    if model.comes_in:
        heads = text.num_local_experts * text.hidden_size * text.intermediate_size
        assert text.num_hidden_layers * 3 * heads == model.packed
    else:
        assert weights.packed == model.packed
    longrope = text.rope_parameters.get("rope_type") == "longrope"
    window = "original_max_position_embeddings" if longrope else "max_position_embeddings"
    assert getattr(text, window) == model.context


def test_every_row_has_its_configuration() -> None:
    assert list(CONFIGS) == [model.name for model in MODELS] == list(BY_NAME)
    assert all(model.name == model.name.lower() for model in MODELS)


def ask(model: KnownModel, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ask by the command, and check answer and citations."""
    story = folder / "story.txt"
    story.write_text(STORY, encoding="utf-8")
    options = ["--json", "--max-new-tokens", "3", "--budget", "200", "--dtype", "float32"]
    code = main(["ask", str(story), "-q", QUESTION, "--model", model.name, *options])
    out, err = capsys.readouterr()
    assert code == 0, err
    answer = json.loads(out)
    assert answer["model"] == model.hub
    assert answer["usage"]["new_tokens"] > 0
    assert answer["citations"]
    text = story.read_text(encoding="utf-8")
    assert all(text[c["char_start"] : c["char_end"]] == c["text"] for c in answer["citations"])


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_each_answers_with_citations_by_its_short_name(
    model: KnownModel,
    hub: Path,
    llm: SharedLLM,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # in the place of the embedded model, which searches for those that read text only
    monkeypatch.setattr("sharedllm.shared_llm.loaded_encoder", lambda **_: llm.encoder)
    ask(model, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3.5-4b", "qwen3-1.7b"])
def test_with_the_embedded_model(
    name: str, hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(BY_NAME[name], tmp_path, capsys)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_windows_are_those_of_the_table(
    model: KnownModel, hub: Path, llm: SharedLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharedllm.shared_llm.loaded_encoder", lambda **_: llm.encoder)
    read = SharedLLM.from_pretrained(model.name, device="cpu", dtype="float32")
    assert read.window == model.context
    assert isinstance(read.reader, InjectingReader) is (model.kind in FAMILIES)


def test_every_way_to_name_a_model_takes_short_names(hub: Path) -> None:
    try:
        llm = loaded("qwen3-1.7b", dtype="float32")
        assert loaded("Qwen/Qwen3-1.7B", dtype="float32") is llm
        assert loaded_encoder("QWEN3-1.7B", dtype="float32") is llm.encoder
        assert llm.encoder.loaded_from == ("Qwen/Qwen3-1.7B", None)
    finally:
        forget()


def test_both_frameworks_take_short_names(hub: Path) -> None:
    from sharedllm_integrations.langchain import ChatSharedLLM
    from sharedllm_integrations.llamaindex import LlamaIndexSharedLLM

    options: dict[str, Any] = {"model": "qwen3-1.7b", "dtype": "float32", "max_tokens": 2}
    try:
        assert ChatSharedLLM(**options).invoke("Who?").content
        assert LlamaIndexSharedLLM(**options).complete("Who?").text
    finally:
        forget()


def test_a_folder_with_a_model_wins(
    hub: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("qwen3-1.7b")
    folder.mkdir()
    assert hub_name("qwen3-1.7b") == "Qwen/Qwen3-1.7B"  # the folder holds something else
    make_model("llama", max_position_embeddings=8192).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    with caplog.at_level(logging.INFO, "sharedllm"):
        llm = SharedLLM.from_pretrained("qwen3-1.7b", device="cpu", dtype="float32")
    assert llm.model.config.model_type == "llama"
    assert "qwen3-1.7b is the folder of that name here, not Qwen/Qwen3-1.7B" in caplog.text


@pytest.mark.parametrize(
    ("given", "first"),
    [
        ("qwen3-1.7", "qwen3-1.7b"),
        ("qwen3:1.7b", "qwen3-1.7b"),
        ("Qwen3_1.7B", "qwen3-1.7b"),
        ("quen3-4b", "qwen3-4b"),
        ("llama3.2:3b", "llama3.2-3b"),
        ("llama-3.2-3b", "llama3.2-3b"),
        ("gemma-3-4b", "gemma3-4b"),
        ("gemma3", "gemma3-4b"),
        ("smollm3", "smollm3-3b"),
        ("phi-4-mini", "phi4-mini"),
        ("gpt-oss:20b", "gpt-oss-20b"),
        ("mistral7b", "mistral-7b"),
    ],
)
def test_slips_are_answered_with_the_nearest_names(given: str, first: str, hub: Path) -> None:
    assert is_slip(given)
    assert first in nearest(given)
    with pytest.raises(ModelNotFoundError, match=f"no model is called .*nearest: .*{first}"):
        SharedLLM.from_pretrained(given, device="cpu")


@pytest.mark.parametrize("given", ["gpt2", "Qwen/Qwen3-1.7B", "models/qwen3-1.7b", "distilgpt2"])
def test_other_names_are_no_slips(given: str) -> None:
    assert not is_slip(given)


def test_every_short_name_stands_for_a_hub_name() -> None:
    for model in MODELS:
        assert hub_name(model.name) == hub_name(model.name.upper()) == model.hub
        assert hub_name(model.hub) == model.hub
        assert not is_slip(model.name)


def test_bytes_of_weights() -> None:
    model = BY_NAME["mistral-7b"]
    rest = model.parameters - model.packed
    assert model.weight_bytes(2) == 2 * model.parameters
    assert model.weight_bytes(2, "4bit") == rest * 2 + int(model.packed * 4.13 / 8)
    assert BY_NAME["gpt-oss-20b"].weight_bytes(2, "MXFP4") / 1e9 == pytest.approx(13.76, abs=0.01)


@pytest.mark.parametrize(
    ("memory_gib", "itemsize", "cuda", "way"),
    [
        (30, 4, False, ""),
        (16, 4, False, "--dtype bfloat16"),
        (8, 4, False, "--quantize 4bit"),
        (6.2, 4, False, "--quantize 4bit --dtype bfloat16"),
        (5, 4, False, None),
        (16, 2, True, ""),
    ],
)
def test_the_options_with_which_a_model_fits(
    memory_gib: float, itemsize: int, cuda: bool, way: str | None
) -> None:
    model = BY_NAME["mistral-7b"]
    assert model.way(int(memory_gib * 2**30), itemsize, cuda=cuda) == way


def test_published_in_four_bits_fits_a_gpu_as_it_is() -> None:
    model = BY_NAME["gpt-oss-20b"]
    assert model.way(16 << 30, 2, cuda=True) == ""
    assert model.way(16 << 30, 2, cuda=False) is None  # a processor unpacks it
