"""Weights in 4 and 8 bits: what is packed, what stays, and what does not go together."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from benchmarks.quantized import parameter_bytes
from sharedllm import InjectionConfig, MemoryDocument, SharedLLM, TreeMemory, loaded, loaded_for
from sharedllm.cli.main import main
from sharedllm.config import QUANTIZE, AdapterConfig
from sharedllm.errors import (
    AdapterError,
    ConfigError,
    MissingExtraError,
    TreeMemoryMismatchError,
    UnsupportedModelError,
)
from sharedllm.hf.lora import Adapter
from sharedllm.hf.models import weight_bytes
from sharedllm.hf.room import weigh
from sharedllm.registry import forget
from tests.hf.published import small
from tests.hf.test_gguf import write
from tests.models import SIZES, make_model, make_tokenizer
from tests.texts import STORY

TEXT = "A river runs through the valley. " * 30
WIDE = {"hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 8192}
LAYERS = {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}
Load = Callable[..., SharedLLM]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_model("llama", **WIDE).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def load(folder: Path) -> Load:
    return lambda **options: SharedLLM.from_pretrained(folder, device="cpu", **options)


@pytest.mark.parametrize("mode", ["joint", "cross"])
@pytest.mark.parametrize("quantize", QUANTIZE)
def test_packed_weights_answer_nearly_as_the_plain_ones(
    quantize: str, mode: str, load: Load
) -> None:
    injection = InjectionConfig(mode=mode)  # type: ignore[arg-type]
    plain = load(injection=injection, dtype="float32")
    packed = load(injection=injection, dtype="float32", quantize=quantize)
    assert type(packed.model.get_decoder().layers[0].self_attn.q_proj).__name__ == LAYERS[quantize]
    assert type(packed.model.get_output_embeddings()) is torch.nn.Linear
    assert (plain.encoder.quantize, packed.encoder.quantize) == (None, quantize)
    for leaves in ("text", "kv"):
        nll = []
        for llm in (plain, packed):
            prepared = llm.prepare("What runs?", llm.remember(TEXT), leaves=leaves, budget=400)
            nll += llm.upper.nll([prepared.prompt], [llm.tokenizer("A river").input_ids])
        assert 0 < abs(nll[0] - nll[1]) < 0.2 * nll[0], nll


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantize", QUANTIZE)
def test_vectors_and_kv_stay_in_the_compute_dtype(quantize: str, dtype: str, load: Load) -> None:
    llm = load(dtype=dtype, quantize=quantize)
    kind = getattr(torch, dtype)
    assert llm.model.dtype == kind
    document = llm.remember(STORY)
    llm.encode(document)
    (kv, *_) = document.nodes._nodes.values()
    assert kv.keys.dtype == kv.values.dtype == kind
    answer = llm.answer("Who kept the light?", document, leaves="kv", coarse="all", **QUICK)
    assert answer.citations
    assert answer.usage.injected_tokens > 0


QUICK: dict[str, Any] = {"max_new_tokens": 3, "budget": 200}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("quantize", QUANTIZE)
def test_bytes_are_those_that_were_computed(
    quantize: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    config = LlamaConfig(**{**SIZES, "hidden_size": 256, "intermediate_size": 768})
    weights = weigh(config)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    form = {"load_in_4bit": True, "bnb_4bit_use_double_quant": True, "bnb_4bit_quant_type": "nf4"}
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path,
        dtype=dtype,
        quantization_config=BitsAndBytesConfig(
            **(form if quantize == "4bit" else {"load_in_8bit": True})
        ),
    )
    computed = weight_bytes(weights.parameters, weights.packed, dtype.itemsize, quantize)
    assert parameter_bytes(model) == pytest.approx(computed, rel=0.01)


@pytest.mark.parametrize("quantize", QUANTIZE)
def test_adapters_run_on_packed_weights(quantize: str, folder: Path, tmp_path: Path) -> None:
    def adapted(**options: Any) -> SharedLLM:
        return SharedLLM.from_pretrained(folder, device="cpu", dtype="float32", **options)

    plain = adapted()
    adapter = Adapter(plain.model, AdapterConfig(rank=2, alpha=2))
    with torch.no_grad():
        for parameter in adapter.parameters().values():
            parameter.add_(0.1)
    plain.adapt(adapter)
    plain.save_pretrained(tmp_path)
    packed = adapted(quantize=quantize, adapter=tmp_path)
    bare = adapted(quantize=quantize)

    def nll(llm: SharedLLM) -> float:
        prepared = llm.prepare("What runs?", llm.remember(TEXT), budget=400)
        return llm.upper.nll([prepared.prompt], [llm.tokenizer("A river").input_ids])[0]

    assert abs(nll(packed) - nll(plain)) < abs(nll(packed) - nll(bare))
    with pytest.raises(AdapterError, match="cannot be merged"):
        packed.save_pretrained(tmp_path / "merged", merged=True)


@pytest.fixture
def forgotten() -> Iterator[None]:
    yield
    forget()


@pytest.mark.usefixtures("forgotten")
def test_a_memory_belongs_to_the_form_of_the_weights(folder: Path, tmp_path: Path) -> None:
    name, options = str(folder), {"device": "cpu", "dtype": "float32"}
    packed = loaded(name, quantize="4bit", **options)  # type: ignore[arg-type]
    assert loaded(name, quantize="4bit", **options) is packed  # type: ignore[arg-type]
    plain = loaded(name, **options)  # type: ignore[arg-type]
    assert plain is not packed
    with TreeMemory(tmp_path, llm=packed) as memory:
        memory.add([MemoryDocument(id="story", text=STORY)])
    with pytest.raises(TreeMemoryMismatchError, match=r"quantize '4bit' \(given: None\)"):
        TreeMemory(tmp_path, llm=plain)
    with TreeMemory(tmp_path, create=False) as memory:
        llm = loaded_for(memory, model=name, device="cpu")
        assert llm.encoder.quantize == "4bit"
        assert llm.answer("Who kept the light?", memory, **QUICK).citations


@pytest.mark.parametrize("quantize", QUANTIZE)
def test_a_reader_of_text_is_packed_and_the_scout_is_not(
    quantize: str, llm: SharedLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharedllm.shared_llm.loaded_encoder", lambda **_: llm.encoder)
    AutoModelForCausalLM.from_config(small("qwen3.5-4b")).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    read = SharedLLM.from_pretrained(tmp_path, device="cpu", quantize=quantize)
    kinds = {type(module).__name__ for module in read.model.modules()}
    assert LAYERS[quantize] in kinds
    assert read.encoder is llm.encoder
    assert read.answer("Who kept the light?", read.remember(STORY), **QUICK).citations


def test_a_gguf_file_is_unpacked_then_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHAREDLLM_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "model.gguf"
    write(file, make_model("llama", **WIDE), "llama")
    llm = SharedLLM.from_pretrained(file, device="cpu", quantize="4bit")
    assert type(llm.model.get_decoder().layers[0].mlp.up_proj).__name__ == "Linear4bit"


@pytest.mark.parametrize("quantize", QUANTIZE)
def test_a_pass_does_not_change_what_documents_belong_to(quantize: str, load: Load) -> None:
    first, second = load(quantize=quantize), load(quantize=quantize)
    first.remember(STORY)  # bitsandbytes lays weights out anew on processors with AVX-512 BF16
    assert first.identity == second.identity
    assert load(quantize=None).identity != first.identity


def test_layers_of_any_width(tmp_path: Path) -> None:
    make_model("llama", **{**WIDE, "hidden_size": 48, "intermediate_size": 72}).save_pretrained(
        tmp_path
    )
    make_tokenizer().save_pretrained(tmp_path)
    llm = SharedLLM.from_pretrained(tmp_path, device="cpu", dtype="bfloat16", quantize="4bit")
    assert llm.answer("Who kept the light?", llm.remember(STORY), **QUICK).citations


@pytest.mark.parametrize("quantize", ["4", "4 bit", "nf4", "", "16bit", 4, True])
def test_values_that_are_not_allowed(quantize: Any, load: Load) -> None:
    with pytest.raises(ConfigError, match="quantize is"):
        load(quantize=quantize)


def test_two_ways_at_once(load: Load) -> None:
    form = BitsAndBytesConfig(load_in_8bit=True)
    with pytest.raises(ConfigError, match="give one of them"):
        load(quantize="4bit", quantization_config=form)


def test_weights_that_are_published_quantised(load: Load, folder: Path, tmp_path: Path) -> None:
    load(quantize="4bit").model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    again = SharedLLM.from_pretrained(tmp_path, device="cpu")
    assert type(again.model.get_decoder().layers[0].mlp.up_proj).__name__ == "Linear4bit"
    with pytest.raises(UnsupportedModelError, match=r"published quantised already \(bitsandbytes"):
        SharedLLM.from_pretrained(tmp_path, device="cpu", quantize="8bit")


def test_experts_cannot_be_packed(tmp_path: Path) -> None:
    config = small("gpt-oss-20b")
    config.num_local_experts = 128
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"only \d% of the weights .* in experts"):
        SharedLLM.from_pretrained(tmp_path, device="cpu", quantize="4bit")


def test_the_package_is_missing(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "bitsandbytes" else found(name)
    )
    with pytest.raises(MissingExtraError, match=r"pip install 'sharedllm\[quantize\]'"):
        load(quantize="4bit")


@pytest.mark.usefixtures("forgotten")
def test_both_frameworks(folder: Path) -> None:
    from sharedllm_integrations.langchain import ChatSharedLLM
    from sharedllm_integrations.llamaindex import LlamaIndexSharedLLM

    options: dict[str, Any] = {"model": str(folder), "quantize": "4bit", "device": "cpu"}
    assert ChatSharedLLM(**options, max_tokens=2).invoke("Who?").content
    assert LlamaIndexSharedLLM(**options, max_tokens=2).complete("Who?").text
    assert loaded(str(folder), quantize="4bit", device="cpu").encoder.quantize == "4bit"


@pytest.mark.usefixtures("forgotten")
def test_a_reader_of_text_beside_a_memory_is_packed(
    llm: SharedLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    AutoModelForCausalLM.from_config(small("qwen3.5-4b")).save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    name = str(tmp_path / "model")
    with TreeMemory(tmp_path / "memory", llm=llm) as memory:
        memory.add([MemoryDocument(id="story", text=STORY)])
        read = loaded_for(memory, model=name, quantize="8bit")
        assert read.encoder is llm.encoder
        assert any(type(m).__name__ == "Linear8bitLt" for m in read.model.modules())
        assert read.answer("Who kept the light?", memory, **QUICK).citations


@pytest.mark.usefixtures("forgotten")
def test_the_commands(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    story, memory = tmp_path / "story.txt", str(tmp_path / "memory")
    story.write_text(STORY, encoding="utf-8")
    named = ["--model", str(folder), "--quantize", "4bit", "--device", "cpu"]
    asked = ["-q", "Who kept the light?", "--max-new-tokens", "3", "--json"]
    assert main(["ask", str(story), *asked, *named]) == 0
    assert json.loads(capfd.readouterr().out)["citations"]
    assert main(["index", str(story), "--memory", memory, *named]) == 0
    capfd.readouterr()
    assert main(["ask", "--memory", memory, *asked, "--model", str(folder)]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["citations"]
    assert "kernels" not in err  # bitsandbytes would say that it has no faster one
    assert main(["ask", str(story), *asked, "--quantize", "3bit"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line == "sharedllm: quantize is '3bit'; allowed: '4bit', '8bit'"


@pytest.mark.slow
@pytest.mark.parametrize("quantize", QUANTIZE)
def test_the_default_model_packed(quantize: str) -> None:
    llm = SharedLLM.from_pretrained(device="cpu", quantize=quantize)
    answer = llm.answer("Who kept the light?", llm.remember(STORY), max_new_tokens=20)
    assert answer.citations
    assert llm.adapter is not None


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("form", ["plain", *QUANTIZE])
def test_eight_billion_weights_on_a_gpu(form: str, tmp_path: Path) -> None:
    """Random weights of Llama-3-8B's shape take the memory that was computed, and answer."""
    from benchmarks.quantized import measured, write_shape

    folder = tmp_path / "8b"
    write_shape("llama8b-shaped", folder)
    quantize = None if form == "plain" else form
    row = measured(folder, quantize, device="cuda", prompt=2048, new_tokens=32)
    weights = weigh(LlamaConfig.from_pretrained(folder))
    computed = weights.bytes(torch.bfloat16, quantize)
    assert row.weights_gib == pytest.approx(computed / 2**30, rel=0.03)
    assert row.peak_gib < row.weights_gib + 6
    assert row.prefill_tokens_s > 0
    assert row.decode_tokens_s > 0


SCRIPT = """
import sys
from torchao.quantization import Int8WeightOnlyConfig
from transformers import TorchAoConfig
from sharedllm import InjectionConfig, SharedLLM
folder, mode = sys.argv[1:]
plain = SharedLLM.from_pretrained(folder, device="cpu", injection=InjectionConfig(mode=mode))
small = SharedLLM.from_pretrained(
    folder,
    device="cpu",
    injection=InjectionConfig(mode=mode),
    quantization_config=TorchAoConfig(Int8WeightOnlyConfig()),
)
assert "Int8" in type(small.model.get_decoder().layers[0].self_attn.q_proj.weight).__name__
text = "A river runs through the valley. " * 30
for leaves in ("text", "kv"):
    nll = []
    for llm in (plain, small):
        prepared = llm.prepare("What runs?", llm.remember(text), leaves=leaves, budget=400)
        nll += llm.upper.nll([prepared.prompt], [llm.tokenizer("A river").input_ids])
    assert 0 < abs(nll[0] - nll[1]) < 0.05 * nll[0], nll
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["joint", "cross"])
def test_int8_of_torchao_by_its_own_configuration(folder: Path, mode: str) -> None:
    pytest.importorskip(
        "torchao", reason="torchao is not installed (it prints on import, so no extra does)"
    )
    # A process of its own: torchao warns on import, and warnings are errors here.
    command = [sys.executable, "-c", SCRIPT, str(folder), mode]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
