"""Compact search vectors: codes, similarities, and MaxSim over them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

import sharedllm.search.maxsim as maxsim_file
from sharedllm import Document, SharedLLM
from sharedllm.encoding.lower_model import unit
from sharedllm.errors import ConfigError, InputError
from sharedllm.memory.codes import BLOCK, CodedVectors, VectorCodec

HIDDEN = 96


def random_vectors(n: int, seed: int = 0, hidden: int = HIDDEN) -> torch.Tensor:
    """Of unit length, and less spread along later directions, as a model's are."""
    random = torch.Generator().manual_seed(seed)
    spread = torch.linspace(1.0, 0.2, hidden)
    return unit(torch.randn(n, hidden, generator=random) * spread)


@pytest.fixture(scope="module")
def codec() -> VectorCodec:
    return VectorCodec.fit(random_vectors(500))


def compact(document: Document, llm: SharedLLM) -> Document:
    codec = VectorCodec.fit(llm.encoder.lower.vocabulary())
    held = CodedVectors(codec, codec.encode(document.vectors))
    return dataclasses.replace(document, vectors=held, _derived={})


def test_codes_have_the_size_asked_for(codec: VectorCodec) -> None:
    codes = codec.encode(random_vectors(7).half())
    assert codes.shape == (7, 64)
    assert codes.dtype == torch.uint8
    assert (codec.size, codec.hidden) == (64, HIDDEN)
    assert VectorCodec.fit(random_vectors(500), size=8).encode(random_vectors(7)).shape == (7, 8)


@pytest.mark.parametrize("hidden", [5, 96, 700])  # fewer and more numbers than bits
def test_similarities_are_those_of_the_decoded_vectors(hidden: int) -> None:
    codec = VectorCodec.fit(random_vectors(50, hidden=hidden))
    query, codes = random_vectors(3, 1, hidden), codec.encode(random_vectors(40, 2, hidden))
    found = codec.similarities(query, codes)
    torch.testing.assert_close(found, query @ codec.decode(codes).T, rtol=1e-4, atol=1e-5)


def test_blocks_join(codec: VectorCodec) -> None:
    tokens = BLOCK["cpu"] + 3
    vectors = random_vectors(8).repeat(tokens // 8 + 1, 1)[:tokens]
    codes = codec.encode(vectors)
    assert torch.equal(codes, codes[:8].repeat(tokens // 8 + 1, 1)[:tokens])
    found = codec.similarities(random_vectors(2, 1), codes)
    torch.testing.assert_close(found[:, -3:], found[:, (tokens - 3) % 8 : (tokens - 3) % 8 + 3])


def test_codes_of_equal_codecs_are_compared_together(codec: VectorCodec) -> None:
    """The parts of a memory each read the codec of their own file."""
    vectors = random_vectors(6)
    again = VectorCodec.from_arrays(codec.arrays())
    other = VectorCodec.fit(random_vectors(500), seed=1)
    own, same, wrong = (CodedVectors(one, one.encode(vectors)) for one in (codec, again, other))
    joined = own.joined([same])
    assert joined is not None
    assert torch.equal(joined.codes, torch.cat([own.codes, same.codes]))
    assert own.joined([wrong]) is None


def test_random_similarities_agree_with_exact_ones(codec: VectorCodec) -> None:
    query, vectors = random_vectors(50, 1), random_vectors(400, 2)
    errors = codec.similarities(query, codec.encode(vectors)) - query @ vectors.T
    assert errors.std() < 0.05  # (pi / 2 - 1) / 512 is the square of 0.033
    assert errors.mean().abs() < 0.01
    own = codec.similarities(vectors, codec.encode(vectors)).diagonal()
    assert abs(float(own.mean()) - 1) < 0.05  # they rank beside exact ones


def test_more_bytes_err_less() -> None:
    query, vectors = random_vectors(20, 1), random_vectors(300, 2)
    errors = []
    for size in (4, 16, 64):
        codec = VectorCodec.fit(random_vectors(500), size=size)
        found = codec.similarities(query, codec.encode(vectors))
        errors.append(float((found - query @ vectors.T).std()))
    assert errors[0] > 1.5 * errors[1] > 2 * errors[2]


def test_the_same_seed_gives_the_same_codec(codec: VectorCodec) -> None:
    again = VectorCodec.fit(random_vectors(500))
    assert torch.equal(again.projection, codec.projection)
    assert torch.equal(again.levels, codec.levels)
    assert not torch.equal(
        VectorCodec.fit(random_vectors(500), seed=1).projection, codec.projection
    )


def test_arrays_are_stored_and_read_back(codec: VectorCodec) -> None:
    read = VectorCodec.from_arrays(load(save(codec.arrays())))
    vectors = random_vectors(20, 3)
    codes = read.encode(vectors)
    assert torch.equal(codes, codec.encode(vectors))
    assert torch.equal(read.similarities(vectors, codes), codec.similarities(vectors, codes))


def test_nothing_and_one_token(codec: VectorCodec) -> None:
    nothing = codec.encode(random_vectors(0))
    assert nothing.shape == (0, 64)
    assert codec.decode(nothing).shape == (0, HIDDEN)
    assert codec.similarities(random_vectors(3), nothing).shape == (3, 0)
    one = codec.encode(random_vectors(1))
    assert codec.similarities(random_vectors(3), one).shape == (3, 1)
    assert codec.similarities(random_vectors(0), one).shape == (0, 1)


@pytest.mark.parametrize(
    "sample", [torch.ones(3), torch.ones(2, 2, 2), torch.zeros(4, 8), torch.ones(0, 8)]
)
def test_a_sample_of_the_wrong_form_is_refused(sample: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="sample is a tensor of shape"):
        VectorCodec.fit(sample)


def test_nan_and_no_bytes_are_refused() -> None:
    with pytest.raises(ConfigError, match="finite"):
        VectorCodec.fit(torch.full((2, 8), torch.nan))
    with pytest.raises(ConfigError, match="size is 0"):
        VectorCodec.fit(random_vectors(10), size=0)


def test_shapes_of_another_model_are_refused(codec: VectorCodec) -> None:
    codes = codec.encode(random_vectors(2))
    for wrong in (torch.ones(2, HIDDEN + 1), torch.ones(HIDDEN)):
        with pytest.raises(InputError, match="vectors have shape"):
            codec.encode(wrong)
        with pytest.raises(InputError, match="query have shape"):
            codec.similarities(wrong, codes)
    for wrong in (codes[:, 1:], codes[0], codes.int()):
        with pytest.raises(InputError, match="codes are"):
            codec.similarities(random_vectors(1), wrong)
        with pytest.raises(InputError, match="codes are"):
            codec.decode(wrong)


def test_arrays_that_do_not_fit_each_other_are_refused(codec: VectorCodec) -> None:
    whole = codec.arrays()
    for wrong in (
        {},
        {"projection": whole["projection"]},
        {**whole, "levels": whole["levels"][:-8]},
        {"projection": whole["projection"][:, :12], "levels": whole["levels"][:12]},
        {"projection": whole["projection"][:, :0], "levels": whole["levels"][:0]},
    ):
        with pytest.raises(InputError, match="the arrays of a codec"):
            VectorCodec.from_arrays(wrong)


def test_a_document_with_codes_is_searched(tiny_llm: SharedLLM, story: Document) -> None:
    held = compact(story, tiny_llm)
    assert held.vectors.shape == story.vectors.shape
    assert held.vectors.nbytes == 64 * len(story)
    question = "Who kept the lamp?"
    exact, close = (tiny_llm.score(question, d, scorer="maxsim")[0] for d in (story, held))
    assert np.corrcoef(exact, close)[0, 1] > 0.95
    assert not np.array_equal(exact, close)
    assert tiny_llm.answer(question, held, budget=64, max_new_tokens=2).usage.evidence_tokens > 0


@pytest.mark.parametrize("limit", [1, 10**6])
def test_documents_are_compared_together_as_alone(
    tiny_llm: SharedLLM, story: Document, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(maxsim_file, "TOGETHER", limit)
    one, other = compact(story, tiny_llm).vectors, compact(tiny_llm.remember("b " * 40), tiny_llm)
    query = story.vectors[:5].float()
    shared = dataclasses.replace(other.vectors, codec=one.codec)
    for several in ([one, shared], [one, shared, one], [one, story.vectors], [story.vectors, one]):
        together = list(maxsim_file._similarities(query, several))
        assert len(together) == len(several)
        for vectors, found in zip(several, together, strict=True):
            assert np.allclose(found, maxsim_file._similarity(query, vectors), atol=1e-5)


@pytest.mark.parametrize("scorer", ["embedding", "last_hidden", "fused"])
def test_other_scorers_take_codes(tiny_llm: SharedLLM, story: Document, scorer: str) -> None:
    held = compact(story, tiny_llm)
    exact, close = (tiny_llm.score("the lamp", d, scorer=scorer)[0] for d in (story, held))
    assert np.corrcoef(exact, close)[0, 1] > 0.95


def test_a_document_of_one_token(tiny_llm: SharedLLM) -> None:
    held = compact(tiny_llm.remember("a"), tiny_llm)
    assert np.isfinite(tiny_llm.score("a", held)[0]).all()


def test_the_vocabulary_depends_on_the_model_alone(tiny_llm: SharedLLM) -> None:
    first = tiny_llm.encoder.lower.vocabulary()
    tiny_llm.remember("Something else.")
    assert torch.equal(tiny_llm.encoder.lower.vocabulary(), first)
    assert first.shape[0] == tiny_llm.model.config.vocab_size  # smaller than the sample
