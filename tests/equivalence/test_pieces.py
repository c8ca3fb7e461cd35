"""Compiled pieces compute what transformers' own layers do, and leave nothing behind.

Under a backend that traces and compiles nothing, so that this takes moments.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters

from sharedllm import SharedLLM, loaded
from sharedllm.encoding.lower_model import LowerModel, NodeRequest
from sharedllm.errors import ConfigError, UnsupportedModelError
from sharedllm.hf import pieces
from sharedllm.registry import forget
from tests.equivalence.test_4_nodes import assert_same
from tests.models import FAMILIES, make_model, shared, some_ids

IDS = np.asarray(some_ids(160, 40), dtype=np.int32)
REQUESTS = [NodeRequest(start=at, end=at + 40, ratio=4.0) for at in range(0, 160, 40)]
LAYERS = 3
PIECES = {"qwen3": LAYERS, "phi3": 0}  # of the others also the rotation


@pytest.fixture(autouse=True)
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "LONG", 100)


@pytest.mark.parametrize("family", FAMILIES)
def test_nodes_are_the_same(family: str) -> None:
    lower = shared(family).lower
    with torch.inference_mode():
        plain = dict(lower.encode(IDS, REQUESTS))
        with pieces.compiled_pieces(lower._model, "aot_eager") as changed:
            assert len(changed) == next(
                (n for kind, n in PIECES.items() if family.startswith(kind)), 2 * LAYERS
            )
            fused = dict(lower.encode(IDS, REQUESTS))
        for request in REQUESTS:
            assert_same(fused[request], plain[request])
    assert not any("forward" in vars(module) for module in lower._model.modules())


def test_short_passes_and_those_with_gradients_are_transformers_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object) -> object:
        raise AssertionError("a compiled piece ran")

    monkeypatch.setattr(pieces, "_kernels", lambda _: (never, never))
    lower = shared("llama").lower
    with pieces.compiled_pieces(lower._model):
        with torch.inference_mode():
            list(lower.encode(IDS, REQUESTS[:2]))
        list(lower.encode(IDS, REQUESTS))
        with torch.inference_mode(), pytest.raises(AssertionError, match="compiled piece"):
            list(lower.encode(IDS, REQUESTS))


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was compiled, of processes that may do so on their CPU."""
    found: list[Any] = []

    def compiler(graph: Any, inputs: Sequence[Any]) -> Any:
        found.append(graph)
        return graph

    backend = aot_autograd(fw_compiler=compiler)
    monkeypatch.setattr(pieces, "DEVICES", ("cpu",))
    monkeypatch.setattr(pieces, "BACKEND", backend)
    torch.compiler.reset()
    pieces._kernels.cache_clear()
    return found


def compiling(family: str, further: Sequence[torch.device] = ()) -> SharedLLM:
    plain = shared(family)
    return SharedLLM(
        make_model(family),
        plain.tokenizer,
        tree=plain.tree,
        attention="sdpa",
        ingest_devices=further,
        compile_ingest=True,
    )


def encoded(lower: LowerModel) -> dict[NodeRequest, Any]:
    with torch.inference_mode():
        return dict(lower.encode(IDS, REQUESTS))


@pytest.mark.parametrize("further", [(), (torch.device("cpu"),)])
def test_all_is_compiled_when_the_model_is_loaded(
    compiled: list[Any], further: Sequence[torch.device]
) -> None:
    llm, plain = compiling("llama", further), shared("llama")
    count = len(compiled)
    assert count == 4  # two pieces, of one length and of any
    expected, found = encoded(plain.lower), encoded(llm.lower)
    for request in REQUESTS:
        assert_same(found[request], expected[request])
    llm.lower.search_in_bf16 = plain.lower.search_in_bf16 = False  # as on a card
    text = "The ferry leaves at noon. " * 12
    one, other = (each.remember(text).vectors for each in (llm, plain))
    torch.testing.assert_close(one, other, rtol=0.01, atol=0.01)
    again = copy.deepcopy(llm.model)
    for module in again.modules():
        if "forward" in vars(module):
            assert module.forward.args[0] is module
            assert module.forward.args[1].__self__ is module
    assert len(compiled) == count


def test_several_rows_are_transformers_own(compiled: list[Any]) -> None:
    llm = compiling("llama")
    row = llm.model.get_decoder().layers[0].mlp
    for given in (torch.zeros(2, 100, 64), torch.zeros(1, 99, 64)):
        with torch.inference_mode():
            row(given[..., : row.gate_proj.in_features])
    assert len(compiled) == 4


def test_models_that_are_built_otherwise_are_refused(compiled: list[Any]) -> None:
    with pytest.raises(UnsupportedModelError, match="Phi3ForCausalLM has no layers"):
        compiling("phi3-partial")


def test_what_a_compiler_lacks_is_said(
    compiled: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> Any:
        raise RuntimeError("no Triton\nand more")

    monkeypatch.setattr(pieces, "BACKEND", failing)
    pieces._kernels.cache_clear()
    model = make_model("llama")
    with pytest.raises(
        ConfigError, match=r"torch\.compile failed here: RuntimeError: no Triton; it"
    ):
        pieces.compile_ingest(model)
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_cpu_is_refused_before_a_model_is_loaded() -> None:
    for load in (SharedLLM.from_pretrained, loaded):
        with pytest.raises(ConfigError, match="compile_ingest is True, but the model is on 'cpu'"):
            load("/no/such/folder", device="cpu", compile_ingest=True)


def test_one_that_compiles_is_another_model(
    monkeypatch: pytest.MonkeyPatch, compiled: list[Any]
) -> None:
    given: list[bool] = []

    def load(name: str, **options: Any) -> SimpleNamespace:
        given.append(options["compile_ingest"])
        return SimpleNamespace()

    monkeypatch.setattr(SharedLLM, "from_pretrained", load)
    forget()
    try:
        assert loaded("x", device="cpu") is not loaded("x", device="cpu", compile_ingest=True)
    finally:
        forget()
    assert given == [False, True]


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_card(dtype: torch.dtype) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    pieces._kernels.cache_clear()
    tokenizer, found = shared("llama").tokenizer, []
    for compile_ingest in (False, True):
        model = make_model("llama").to("cuda", dtype)
        llm = SharedLLM(model, tokenizer, tree=shared("llama").tree, compile_ingest=compile_ingest)
        count = counters["stats"]["unique_graphs"]
        found.append(encoded(llm.lower))
        assert counters["stats"]["unique_graphs"] == count
    far = 1e-4 if dtype == torch.float32 else 0.05
    for request in REQUESTS:
        for name in ("keys", "values"):
            one, other = (getattr(nodes[request], name).float() for nodes in found)
            assert (one - other).norm() <= far * one.norm()
