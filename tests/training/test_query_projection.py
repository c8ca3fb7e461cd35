"""The query projection: it learns, is kept with an adapter, is searched by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sharedllm import SharedLLM
from sharedllm.config import AdapterConfig
from sharedllm.encoding.lower_model import unit
from sharedllm.errors import AdapterError
from sharedllm.hf import lora_io
from sharedllm.hf.lora import Adapter
from sharedllm.search.maxsim import MaxSim
from sharedllm.search.query import make_query
from sharedllm.training import query_projection
from sharedllm.training.query_projection import QueryProjection, Questions, Sought
from sharedllm.training.train_config import read_config
from tests.models import TREE, make_model, make_tokenizer, shared
from tests.texts import STORY
from tests.training.test_training import toml

QUESTION = "Who took the lamp to the harbour?"


def config(tmp_path: Path, **changes: object):  # type: ignore[no-untyped-def]
    return read_config(toml(tmp_path, workers=0, **changes))


def adapter_folder(tmp_path: Path) -> tuple[SharedLLM, Path]:
    """A tiny model with an adapter, and where both are saved."""
    model = make_model("llama")
    make_tokenizer().save_pretrained(tmp_path / "base")
    model.save_pretrained(tmp_path / "base")
    llm = SharedLLM.from_pretrained(tmp_path / "base", adapter=None, dtype="float32", tree=TREE)
    llm.adapt(Adapter(llm.model, AdapterConfig(rank=2)))
    llm.save_pretrained(tmp_path / "adapter")
    return llm, tmp_path / "adapter"


def test_examples_have_evidence_and_something_else(tmp_path: Path) -> None:
    llm = shared("llama")
    stream = iter(Questions(config(tmp_path).data, llm.tokenizer, llm.tree, seed=0))
    for sought in [next(stream) for _ in range(5)]:
        assert 0 < len(sought.right) < len(sought.leaves)
        assert sought.right.max() < len(sought.leaves)
        assert len(sought.weights) == len(sought.question)
        assert sought.weights.sum() == pytest.approx(1)


def test_the_loss_is_that_of_maxsim_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    questions, pasts = (
        torch.randn(5, 4, generator=generator),
        torch.randn(9, 4, generator=generator),
    )
    ids = np.zeros(9, np.int32)
    batch = [
        Sought(
            kind="one",
            question=ids[:2],
            past=ids[:5],
            leaves=np.array([0, 3], np.int32),
            right=np.array([1], np.int32),
            weights=np.array([0.25, 0.75], np.float32),
        ),
        Sought(
            kind="two",
            question=ids[:3],
            past=ids[:4],
            leaves=np.array([0, 2], np.int32),
            right=np.array([0, 1], np.int32),
            weights=np.array([0.5, 0.5, 0.0], np.float32),
        ),
    ]
    model = QueryProjection(4, torch.device("cpu"))
    with torch.no_grad():
        model.matrix.copy_(torch.randn(4, 4, generator=generator))
    losses = model.losses(batch, questions, pasts)
    similarity = unit(questions @ model.matrix.T) @ pasts.T
    best = torch.stack([similarity[:, a:b].amax(1) for a, b in ((0, 3), (3, 5), (5, 7), (7, 9))])
    first = model.sharpness.exp() * (0.25 * best[:, 0] + 0.75 * best[:, 1])
    second = model.sharpness.exp() * (0.5 * best[:, 2] + 0.5 * best[:, 3])
    torch.testing.assert_close(losses[0], -first.log_softmax(0)[1])
    torch.testing.assert_close(losses[1], -second.log_softmax(0)[2:].logsumexp(0))


def test_training_lowers_the_loss_and_changes_what_is_found(tmp_path: Path) -> None:
    llm, folder = adapter_folder(tmp_path)
    text = toml(tmp_path, workers=0, model=str(tmp_path / "base")).read_text()
    file = tmp_path / "search.toml"
    file.write_text(text + "\n[query_projection]\nsteps = 60\nbatch = 4\nlearning_rate = 3e-3\n")
    settings, said = read_config(file), []
    query_projection.run(settings, folder, said.append, device="cpu", dtype="float32")
    assert said[0].startswith("step 50")

    found = SharedLLM.from_pretrained(tmp_path / "base", adapter=folder, dtype="float32")
    learned = found.encoder.lower.query_projection
    assert learned is not None
    stream = iter(Questions(settings.data, llm.tokenizer, llm.tree, seed=77))
    batch = [next(stream) for _ in range(40)]
    vectors = [query_projection._vectors(llm, [x.question for x in batch])]
    vectors += [query_projection._vectors(llm, [x.past for x in batch])]
    model = QueryProjection(len(learned), learned.device)
    before = model.losses(batch, *vectors).mean()
    with torch.no_grad():
        model.matrix.copy_(learned)
    assert model.losses(batch, *vectors).mean() < before

    plain, mapped = (x.score(QUESTION, x.remember(STORY))[0] for x in (llm, found))
    assert not np.allclose(plain, mapped)


def test_a_projection_comes_halfway_back() -> None:
    sample = unit(torch.randn(20, 4, generator=torch.Generator().manual_seed(1)))
    half = query_projection.average_with_identity(3 * torch.eye(4), sample)
    torch.testing.assert_close(half, torch.eye(4))  # its length is taken out first


def test_search_multiplies_the_question_alone() -> None:
    llm = shared("llama")
    document = llm.remember(STORY)
    given = torch.randn(2, document.vectors.shape[1], document.vectors.shape[1])[0]
    sought = make_query(QUESTION, llm.tokenizer, llm.encoder.lower)
    llm.encoder.lower.query_projection = given
    (found,) = llm.score(QUESTION, document, scorer="maxsim")
    by_hand = type(sought)(text=sought.text, ids=sought.ids, vectors=unit(sought.vectors @ given.T))
    (expected,) = MaxSim().score(by_hand, [document])
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_it_is_kept_with_the_adapter(tmp_path: Path) -> None:
    llm, folder = adapter_folder(tmp_path)
    assert not (folder / lora_io.QUERY_PROJECTION).exists()
    assert llm.adapter is not None
    llm.adapter.query_projection = torch.eye(llm.model.get_input_embeddings().embedding_dim) * 2
    llm.save_pretrained(folder)
    again = SharedLLM.from_pretrained(tmp_path / "base", adapter=folder, dtype="float32")
    again.save_pretrained(tmp_path / "copy")
    copied = SharedLLM.from_pretrained(
        tmp_path / "base", adapter=tmp_path / "copy", dtype="float32"
    )
    torch.testing.assert_close(copied.encoder.lower.query_projection, llm.adapter.query_projection)
    llm.adapter.query_projection = None
    llm.save_pretrained(folder)
    assert not (folder / lora_io.QUERY_PROJECTION).exists()


def test_a_projection_of_another_model_is_refused(tmp_path: Path) -> None:
    _, folder = adapter_folder(tmp_path)
    save_file({"query_projection": torch.eye(3)}, folder / lora_io.QUERY_PROJECTION)
    with pytest.raises(AdapterError, match=r"\(3, 3\)"):
        SharedLLM.from_pretrained(tmp_path / "base", adapter=folder)
    (folder / lora_io.QUERY_PROJECTION).write_bytes(b"broken")
    with pytest.raises(AdapterError, match="cannot be read"):
        SharedLLM.from_pretrained(tmp_path / "base", adapter=folder)


def test_a_folder_without_an_adapter_gets_no_projection(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no adapter"):
        query_projection.run(config(tmp_path), tmp_path)
