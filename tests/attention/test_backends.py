"""Attention backends against the reference, on tensors alone."""

from __future__ import annotations

import pytest
import torch

from sharedllm.attention import flash, reference
from sharedllm.attention.backends import HALF_ON_CUDA, NAMES, Softmax, get_backend
from sharedllm.attention.visibility import ALWAYS, NEVER, Keys, Visibility
from sharedllm.errors import ConfigError

OTHERS = [name for name in NAMES if name not in ("reference", *HALF_ON_CUDA)]


def tensors(t: int, s: int, heads: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(t * 100 + s)
    shapes = [(2, heads, t, 8), (2, 2, s, 8), (2, 2, s, 8)]
    q, k, v = (torch.randn(shape, generator=random) for shape in shapes)
    return q, k, v


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize(("t", "s"), [(1, 1), (1, 9), (5, 5), (5, 9)])
@pytest.mark.parametrize("heads", [2, 4, 6])
def test_lower_right_causal(name: str, t: int, s: int, heads: int) -> None:
    q, k, v = tensors(t, s, heads)
    expected = get_backend("reference").attend(q, k, v, None, scale=0.3)
    found = get_backend(name).attend(q, k, v, None, scale=0.3)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize(("t", "s"), [(1, 9), (5, 9), (9, 5)])
def test_masks_and_queries_that_see_nothing(name: str, t: int, s: int) -> None:
    q, k, v = tensors(t, s)
    mask = torch.rand(2, t, s, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[0, 0] = False
    expected = get_backend("reference").attend(q, k, v, mask, scale=0.3)
    found = get_backend(name).attend(q, k, v, mask, scale=0.3)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert found[0, :, 0].abs().max() == 0
    assert expected[1].abs().max() > 0


@pytest.mark.parametrize("name", ["reference", *OTHERS])
def test_the_mask_decides_alone_what_counts(name: str) -> None:
    q, k, v = tensors(3, 7)
    mask = torch.zeros(2, 3, 7, dtype=torch.bool)
    mask[:, :, 2] = True  # one key: the answer is its value
    found = get_backend(name).attend(q, k, v, mask, scale=0.3)
    expected = v[:, :, 2:3].repeat_interleave(2, dim=1).expand_as(found)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


SINKS = torch.tensor([0.5, -2.0, 3.0, 0.0])


def written_out(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, softcap: float | None
) -> torch.Tensor:
    """Scores capped by tanh, and each head's sink as a further key, without a value."""
    k, v = (x.repeat_interleave(2, dim=1) for x in (k, v))
    scores = q @ k.transpose(2, 3) * 0.3
    if softcap:
        scores = softcap * (scores / softcap).tanh()
    scores = scores.masked_fill(~mask[:, None], -torch.inf)
    sink = SINKS[None, :, None, None].expand(*scores.shape[:-1], 1)
    return torch.cat([scores, sink], dim=-1).softmax(-1)[..., :-1] @ v


@pytest.mark.parametrize("name", ["reference", *OTHERS])
@pytest.mark.parametrize(("t", "s"), [(1, 1), (1, 9), (5, 5), (5, 9)])
@pytest.mark.parametrize("softcap", [None, 0.4])
@pytest.mark.parametrize("masked", [False, True])
def test_capped_scores_and_sinks(
    name: str, t: int, s: int, softcap: float | None, masked: bool
) -> None:
    q, k, v = tensors(t, s)
    causal = torch.ones(t, s, dtype=torch.bool).tril(s - t).expand(2, t, s)
    mask = causal & (torch.rand(2, t, s, generator=torch.Generator().manual_seed(1)) < 0.5)
    mask[0, 0] = False  # sees the sink alone
    backend, given = get_backend(name), mask if masked else None
    found = backend.attend(q, k, v, given, scale=0.3, softcap=softcap, sinks=SINKS)
    expected = written_out(q, k, v, mask if masked else causal, softcap)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_the_reference_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = tensors(7, 9)
    options = {"scale": 0.3, "softcap": 0.4, "sinks": SINKS}
    mask = torch.rand(2, 7, 9, generator=torch.Generator().manual_seed(1)) < 0.5
    whole = [reference.attend(q, k, v, m, **options) for m in (None, mask)]
    monkeypatch.setattr(reference, "SCORES", 2 * 2 * 4 * 9)  # two queries at once
    parts = [reference.attend(q, k, v, m, **options) for m in (None, mask)]
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", HALF_ON_CUDA)
@pytest.mark.parametrize("softmax", ["softcap", "sinks"])
def test_flash_attention_is_refused_where_it_cannot(
    name: str, softmax: Softmax, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flash, "runs_on", lambda device, dtype: True)
    with pytest.raises(ConfigError, match=f"'{name}' cannot compute this model's {softmax}"):
        get_backend(name, softmax=[softmax])
    assert get_backend("auto", softmax=[softmax]).name == "sdpa"
    assert get_backend("auto").name == "torch-flash"
    q, k, v = tensors(3, 3)
    extra = {"softcap": 1.0} if softmax == "softcap" else {"sinks": SINKS}
    with pytest.raises(ValueError, match="neither capped scores nor sinks"):
        flash.attend(q, k, v, None, scale=0.3, **extra)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ConfigError, match="'auto', 'reference', 'sdpa'"):
        get_backend("flash9")


def test_visibility_by_hand() -> None:
    """Memory (order 2) between texts (0, 1) and (3, 4), one slot of padding; window of 3."""
    keys = Keys(
        order=torch.tensor([[NEVER, 0, 1, 2, 2, 3, 4]], dtype=torch.int32),
        position=torch.tensor([[0, 0, 1, ALWAYS, ALWAYS, 4, 5]], dtype=torch.int32),
    )
    seen = Visibility(
        query_order=torch.tensor([[-1, 0, 1, 3, 4]], dtype=torch.int32),
        query_position=torch.tensor([[0, 0, 1, 4, 5]], dtype=torch.int32),
        keys=keys,
        in_order=False,
    )
    full = seen.mask(None)
    near = seen.mask(3)
    assert full is not None
    assert near is not None
    as_text = ["".join(str(int(x)) for x in row) for row in full[0]]
    assert as_text == ["0000000", "0100000", "0110000", "0111110", "0111111"]
    as_text = ["".join(str(int(x)) for x in row) for row in near[0]]
    assert as_text == ["0000000", "0100000", "0110000", "0001110", "0001111"]
    assert torch.equal(seen.mask(6), full)  # type: ignore[arg-type]
