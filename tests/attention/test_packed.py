"""Packed sequences: every backend against the reference, and each sequence against itself alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sharedllm import SharedLLM
from sharedllm.attention import flash, reference
from sharedllm.attention.backends import HALF_ON_CUDA, NAMES, Backend, get_backend
from sharedllm.attention.visibility import Segments
from sharedllm.encoding.lower_model import NodeRequest
from sharedllm.errors import ConfigError, MissingExtraError
from tests.models import FAMILIES, shared, some_ids

CPU = torch.device("cpu")
PACKAGES = {package.name: package for package in flash.PACKAGES}
OTHERS = [name for name in NAMES if name not in ("reference", *HALF_ON_CUDA)]
LENGTHS = [(1,), (7,), (1, 1, 1), (4, 4, 9, 1, 9), (130, 3, 3, 250)]


def tensors(total: int, heads: int, kv_heads: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (T, H, D) and keys and values (T, G, D), laid out as a model's layers leave them."""
    random = torch.Generator().manual_seed(total)
    q, k, v = (torch.randn(h, total, 8, generator=random) for h in (heads, kv_heads, kv_heads))
    return q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("heads", [2, 6])
@pytest.mark.parametrize("window", [None, 1, 5, 140])
def test_packed_attention(
    name: str, lengths: tuple[int, ...], heads: int, window: int | None
) -> None:
    q, k, v = tensors(sum(lengths), heads)
    segments = Segments.of(lengths, CPU)
    expected = reference.varlen(q, k, v, segments, scale=0.3, window=window)
    found = get_backend(name).varlen(q, k, v, segments, scale=0.3, window=window)
    assert found.shape == (sum(lengths), heads, 8)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("window", [None, 3])
def test_packed_attention_with_capped_scores_and_sinks(name: str, window: int | None) -> None:
    lengths, sinks = (4, 4, 9, 1), torch.tensor([0.5, -2.0, 3.0, 0.0, 1.0, 1.0])
    q, k, v = tensors(sum(lengths), 6)
    segments = Segments.of(lengths, CPU)
    for softcap, given in ((0.4, None), (None, sinks), (0.4, sinks)):
        options = {"scale": 0.3, "window": window, "softcap": softcap, "sinks": given}
        found = get_backend(name).varlen(q, k, v, segments, **options)
        expected = reference.varlen(q, k, v, segments, **options)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)
        plain = reference.varlen(q, k, v, segments, scale=0.3, window=window)
        assert float((expected - plain).abs().max()) > 0.05


def test_the_reference_written_out() -> None:
    """Two sequences, a window of two: each token sees itself and the one before it."""
    q, k, v = tensors(5, 1, 1)
    segments = Segments.of((3, 2), CPU)
    found = reference.varlen(q, k, v, segments, scale=0.5, window=2)[:, 0]
    for token, seen in enumerate(([0], [0, 1], [1, 2], [3], [3, 4])):
        weights = (k[seen, 0] @ q[token, 0] * 0.5).softmax(0)
        torch.testing.assert_close(found[token], weights @ v[seen, 0])


@pytest.mark.parametrize("lengths", [(), (3, 0), (-1,)])
def test_packing_nothing_is_refused(lengths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        Segments.of(lengths, CPU)


@pytest.mark.parametrize("name", OTHERS)
def test_gradients_through_packed_attention(name: str) -> None:
    def gradients(backend: str) -> tuple[Tensor, ...]:
        q, k, v = (x.detach().requires_grad_() for x in tensors(12, 4))
        segments = Segments.of((5, 5, 2), CPU)
        out = get_backend(backend).varlen(q, k, v, segments, scale=0.3)
        return torch.autograd.grad(out.square().sum(), (q, k, v))

    for found, expected in zip(gradients(name), gradients("reference"), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("attention", OTHERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_nodes_by_every_backend(family: str, attention: str) -> None:
    """Sliding windows, biases, partial rotations: the lower model on packed passes."""
    ids = np.asarray(some_ids(60, 40), dtype=np.int32)
    requests = [
        NodeRequest(start=0, end=40, ratio=8.0),
        NodeRequest(start=0, end=10, ratio=1.0),
        NodeRequest(start=20, end=40, ratio=2.5, context=5),
        NodeRequest(start=40, end=60, ratio=32.0),
    ]
    expected = dict(shared(family, attention="reference").encoder.lower.encode(ids, requests))
    for request, kv in shared(family, attention=attention).encoder.lower.encode(ids, requests):
        for found, wanted in (
            (kv.keys, expected[request].keys),
            (kv.values, expected[request].values),
        ):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_nothing_is_computed_beyond_what_is_kept(
    layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the last injection layer only keys and values, and only of kept tokens."""
    llm = shared("llama", layers=layers)
    seen: list[tuple[str, int]] = []
    for index, layer in enumerate(llm.model.model.layers):
        for name in ("q_proj", "k_proj", "o_proj"):
            module = getattr(layer.self_attn, name)
            module.register_forward_hook(
                lambda _m, args, _o, where=f"{index} {name}": seen.append(
                    (where, args[0].flatten(0, -2).shape[0])
                )
            )
    ids = np.asarray(some_ids(48, 1), dtype=np.int32)
    requests = [
        NodeRequest(start=0, end=32, ratio=8.0),
        NodeRequest(start=32, end=48, ratio=4.0),
    ]
    dict(llm.encoder.lower.encode(ids, requests))
    whole = [
        (f"{i} {name}", 48) for i in range(layers - 1) for name in ("q_proj", "k_proj", "o_proj")
    ]
    assert seen == [*whole, (f"{layers - 1} k_proj", 8)]


def test_batches_hold_no_more_tokens_than_they_should(tiny_llm: SharedLLM) -> None:
    tiny_llm.encoder.lower.batch_tokens = 100
    assert tiny_llm.encoder.lower._fitting([60, 40, 1]) == 2
    assert tiny_llm.encoder.lower._fitting([60, 41, 1]) == 1
    assert tiny_llm.encoder.lower._fitting([300, 41]) == 1
    assert tiny_llm.encoder.lower._fitting([20, 20]) == 2


# -- choosing ------------------------------------------------------------------------------------


def test_auto_says_what_it_chose() -> None:
    assert get_backend().name == "sdpa"
    assert shared("llama", attention="auto").model.config._attn_implementation == "sharedllm_sdp"


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash, "find_spec", lambda module: None)
    assert not flash.has_package()
    with pytest.raises(MissingExtraError, match=r"flash-attn.*sharedllm\[flash\]"):
        get_backend("flash")


FLASH_4 = {"flash_attn", "flash_attn.cute", "cutlass"}  # 2 and 4 are both ``flash_attn``
FLASH_3 = {"flash_attn_3", "flash_attn_interface"}
FLASH_2 = {"flash_attn", "flash_attn_2_cuda"}


@pytest.mark.parametrize(
    ("modules", "name"),
    [(FLASH_4, "flash4"), (FLASH_3, "flash3"), (FLASH_2, "flash2"), (FLASH_2 | FLASH_3, "flash3")],
)
def test_the_newest_package_is_taken_and_named(
    modules: set[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(module: str) -> object:
        parent = module.partition(".")[0]
        if parent not in modules and parent != module:
            raise ModuleNotFoundError(parent)
        return object() if module in modules else None

    monkeypatch.setattr(flash, "find_spec", find)
    monkeypatch.setattr(flash, "runs_on", lambda device, dtype: True)
    assert get_backend("flash").name == name
    assert get_backend("auto").name == "torch-flash"


def test_a_kernel_without_its_card_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash, "find_spec", lambda module: object())
    for name in ("torch-flash", "flash"):
        with pytest.raises(ConfigError, match=rf"{name}.*float16 on a CUDA card.*float32 on cpu"):
            get_backend(name)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_gets_its_own_keywords(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keywords of its own functions, and windows in its own spelling."""
    given: list[dict[str, object]] = []

    def function(q: Tensor, k: Tensor, v: Tensor, **options: object) -> tuple[Tensor, None]:
        given.append(options)
        return q, None

    monkeypatch.setattr(flash, "_function", lambda module, name: function)
    package = PACKAGES[name]
    q, k, v = tensors(12, 4)
    segments = Segments.of((5, 7), CPU)
    assert torch.equal(package.varlen(q, k, v, segments, scale=0.5), q)
    package.varlen(q, k, v, segments, scale=0.5, window=7)
    package.varlen(q, k, v, segments, scale=0.5, window=3)
    everything = None if name == "flash4" else -1
    assert [(g["causal"], g["window_size"]) for g in given] == [
        (True, (everything, everything)),
        (True, (everything, everything)),
        (False, (2, 0)),
    ]
    assert given[0]["cu_seqlens_q"] is given[0]["cu_seqlens_k"] is segments.bounds
    assert given[0]["max_seqlen_q"] == given[0]["max_seqlen_k"] == 7
    whole = q.transpose(0, 1)[None]
    assert torch.equal(package.attend(whole, whole, whole, None, scale=0.5), whole)
    assert given[-1] == {"softmax_scale": 0.5, "causal": True}
    mask = torch.ones(1, 12, 12, dtype=torch.bool)
    package.attend(whole, whole, whole, mask, scale=0.5)
    assert len(given) == 4  # a mask is SDPA's


def on_card(name: str) -> Backend:
    """The backend called `name` on a card, for bfloat16; skips where it cannot be."""
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    if name == "flash" and not flash.has_package():
        pytest.skip("no FlashAttention package is installed")
    return get_backend(name, device=torch.device("cuda"), dtype=torch.bfloat16)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["sdpa", *HALF_ON_CUDA])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("lengths", [(1024, 1024, 300, 1), (80,)])
def test_kernels_on_a_card_against_the_oracle(
    name: str, head_dim: int, window: int | None, lengths: tuple[int, ...]
) -> None:
    backend = on_card(name)
    card, random = torch.device("cuda"), torch.Generator("cuda").manual_seed(0)
    segments = Segments.of(lengths, card)
    q, k, v = (
        torch.randn(
            segments.total, h, head_dim, generator=random, device=card, dtype=torch.bfloat16
        )
        for h in (8, 2, 2)
    )
    found = backend.varlen(q, k, v, segments, scale=head_dim**-0.5, window=window)
    expected = reference.varlen(q, k, v, segments, scale=head_dim**-0.5, window=window)
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_step_over_a_buffer_on_a_card_against_the_oracle(rows: int, head_dim: int) -> None:
    """Slots that are not used yet hold NaN: nothing may read them."""
    step = on_card("torch-flash").step
    assert step is not None
    card, random = torch.device("cuda"), torch.Generator("cuda").manual_seed(0)
    options = {"generator": random, "device": card, "dtype": torch.bfloat16}
    query = torch.randn(rows, 8, 1, head_dim, **options)
    room, filled = 4160, [4097, 64, 1][:rows]
    buffers = torch.randn(2, rows, room, 2, head_dim, **options)
    for row, count in enumerate(filled):
        buffers[:, row, count:] = float("nan")
    key, value = buffers.transpose(2, 3)
    used = torch.tensor(filled, dtype=torch.int32, device=card)
    out = step(query, key, value, used, scale=head_dim**-0.5)
    for row, count in enumerate(filled):
        expected = reference.attend(
            query[row : row + 1],
            key[row : row + 1, :, :count],
            value[row : row + 1, :, :count],
            None,
            scale=head_dim**-0.5,
        )
        torch.testing.assert_close(out[row : row + 1], expected, rtol=2e-2, atol=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize(("queries", "keys"), [(1, 700), (33, 700), (256, 256)])
def test_attention_over_memory_on_a_card_against_the_oracle(queries: int, keys: int) -> None:
    backends = [on_card(name) for name in ("sdpa", "torch-flash")]
    card, random = torch.device("cuda"), torch.Generator("cuda").manual_seed(0)
    options = {"generator": random, "device": card, "dtype": torch.bfloat16}
    q, k, v = (torch.randn(2, h, t, 64, **options) for h, t in ((8, queries), (2, keys), (2, keys)))
    expected = reference.attend(q, k, v, None, scale=0.125)
    for backend in backends:
        found = backend.attend(q, k, v, None, scale=0.125)
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=1e-2)
