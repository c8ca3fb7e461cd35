"""Attention backends against the reference, on tensors alone."""

from __future__ import annotations

import pytest
import torch

from sharedllm.attention.backends import HALF_ON_CUDA, NAMES, get_backend
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
