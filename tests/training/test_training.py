"""Training on a tiny model: the tasks are sound, gradients reach both roles, a run can go on."""

from __future__ import annotations

import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from sharedllm import SharedLLM
from sharedllm.cli.main import main
from sharedllm.config import AdapterConfig
from sharedllm.errors import ConfigError
from sharedllm.hf.attention_interface import fuse_norms
from sharedllm.hf.lora import Adapter
from sharedllm.training.batch import Chooser, encode, layers_recomputed, losses
from sharedllm.training.data import Mixture
from sharedllm.training.train_config import SelectionConfig, read_config
from tests.models import make_model, make_tokenizer, shared
from tests.texts import STORY

FILLER = STORY * 3


def toml(tmp_path: Path, **changes: object) -> Path:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": FILLER}) + "\n" for _ in range(3)))
    settings = {"out": str(tmp_path / "run"), "steps": 2, **changes}
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    lines += ["[data]", f"documents = [{json.dumps(str(texts))}]", "past_tokens = [40, 80]"]
    lines += ["running_tokens = 10"]
    for task in ("lm", "planted"):
        lines += ["[[data.sources]]", f'task = "{task}"', "weight = 1.0"]
    lines += ["[search]", "budget = 300"]
    path = tmp_path / "run.toml"
    path.write_text("\n".join(lines))
    return path


def test_a_configuration_is_checked(tmp_path: Path) -> None:
    assert read_config(toml(tmp_path)).steps == 2
    with pytest.raises(ConfigError, match="setps"):
        read_config(toml(tmp_path, setps=3))
    with pytest.raises(ConfigError, match="steps"):
        read_config(toml(tmp_path, steps=0))
    with pytest.raises(ConfigError, match="no such file"):
        read_config(tmp_path / "none.toml")


def test_missing_data_are_named_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = toml(tmp_path)
    (tmp_path / "texts.jsonl").unlink()
    for command in (["train"], ["train-search", "--adapter", str(tmp_path)]):
        assert main([*command, "--config", str(config)]) == 2
        assert "texts.jsonl" in capsys.readouterr().err


def choices(llm: SharedLLM, tmp_path: Path, leaves: str, n: int = 3) -> list:  # type: ignore[type-arg]
    config = SelectionConfig(budget=(40, 60), leaves=(leaves,), coarse=1.0)  # type: ignore[arg-type]
    chooser = Chooser(llm.tokenizer, llm.tree, config, 256, seed=1)
    stream = iter(Mixture(read_config(toml(tmp_path)).data, 5))
    return [chooser(next(stream)) for _ in range(n)]


def trainable(llm: SharedLLM) -> Adapter:
    adapter = Adapter(llm.model, AdapterConfig(rank=2))
    llm.adapt(adapter)
    adapter.train()
    return adapter


def gradients(adapter: Adapter) -> dict[str, torch.Tensor]:
    named = adapter.parameters()
    out = {n: p.grad.clone() for n, p in named.items() if p.grad is not None and p.grad.any()}
    for parameter in named.values():
        parameter.grad = None
    return out


@pytest.mark.parametrize("mode", ["joint", "cross"])
@pytest.mark.parametrize("leaves", ["text", "kv"])
def test_the_loss_reaches_both_roles(tmp_path: Path, leaves: str, mode: str) -> None:
    llm = shared("llama", mode=mode)
    batch = choices(llm, tmp_path, leaves)
    before = losses(llm, batch).detach()
    adapter = trainable(llm)
    fresh = losses(llm, batch)
    torch.testing.assert_close(fresh.detach(), before)  # a new adapter is the base itself
    fresh.mean().backward()
    reached = {name.split(".")[1] for name in gradients(adapter)}
    assert {"lower", "upper"} <= reached
    one_by_one = [losses(llm, [c]) for c in batch]
    torch.testing.assert_close(torch.cat(one_by_one).detach(), before, rtol=1e-4, atol=1e-5)


def test_reading_kv_is_taught_by_reading_text(tmp_path: Path) -> None:
    llm = shared("llama")
    config = SelectionConfig(budget=(40, 60), leaves=("kv",), coarse=1.0)
    chooser = Chooser(llm.tokenizer, llm.tree, config, 256, seed=1, lessons=True)
    stream = iter(Mixture(read_config(toml(tmp_path)).data, 5))
    batch = [chooser(next(stream)) for _ in range(3)]
    for choice in batch:
        assert choice.lesson is not None
        assert not any(choice.lesson.injected)
        assert any(choice.lesson.pasted)
    plain = losses(llm, batch)
    assert (losses(llm, batch, distil=1.0) > plain).all()  # KV is not yet read as text is
    as_text = [dataclasses.replace(c, plan=c.lesson) for c in batch if c.lesson]
    torch.testing.assert_close(losses(llm, as_text, distil=1.0), losses(llm, as_text))


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3-partial", "olmo2", "gpt-oss"])
def test_fused_norms_are_the_same_norms(family: str) -> None:
    model = make_model(family).eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        before = model(ids).logits
        assert fuse_norms(model) >= 2 * model.config.num_hidden_layers + 1
        torch.testing.assert_close(model(ids).logits, before, rtol=1e-5, atol=1e-6)


def test_norms_that_are_something_else_are_left_alone() -> None:
    model = make_model("llama").eval()
    norm = model.get_decoder().norm
    norm.forward = lambda x, own=norm.forward: own(x) + x
    assert fuse_norms(model) == 2 * model.config.num_hidden_layers


@pytest.mark.parametrize("leaves", ["text", "kv"])
def test_checkpointing_gives_the_same_gradients(tmp_path: Path, leaves: str) -> None:
    llm = shared("llama")
    batch = choices(llm, tmp_path, leaves)
    adapter = trainable(llm)
    with torch.no_grad():
        for name, parameter in adapter.parameters().items():
            if name.endswith("up"):
                parameter.add_(0.05)  # from zero, a wrong role would not show
    llm.model.train()
    losses(llm, batch).mean().backward()
    kept = gradients(adapter)
    losses(llm, batch, checkpointing=True).mean().backward()
    again = gradients(adapter)
    assert kept.keys() == again.keys()
    for name, gradient in kept.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("role", ["lower", "both"])
def test_checkpointing_keeps_of_each_layer_what_it_was_given(tmp_path: Path, role: str) -> None:
    llm = shared("llama")
    (choice,) = choices(llm, tmp_path, "kv")[:1]
    trainable(llm)

    def kept(checkpointing: bool) -> int:
        sizes: dict[int, int] = {}

        def pack(x: Tensor) -> Tensor:
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            held.append(x)  # so that no two have one address
            return x

        held: list[Tensor] = []
        recomputing = layers_recomputed(llm.model) if checkpointing else nullcontext()
        with saved_tensors_hooks(pack, lambda x: x), recomputing:
            encode(llm.encoder.lower, [choice]) if role == "lower" else losses(llm, [choice])
        return sum(sizes.values())

    assert kept(True) < 0.5 * kept(False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_learns_saves_and_goes_on(tmp_path: Path) -> None:
    from sharedllm.training.trainer import Trainer

    folder = tmp_path / "model"
    make_model("llama", max_position_embeddings=4096).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    settings = {"model": str(folder), "steps": 2, "batch": 2, "workers": 2, "log_every": 1}
    config = read_config(toml(tmp_path, **settings))
    trainer = Trainer(config, device="cpu")
    trainer.run()
    trained = trainer.adapter.weights()
    assert any(p.any() for name, p in trained.items() if name.endswith("up"))
    longer = Trainer(config.model_copy(update={"steps": 3}), resume=True, device="cpu")
    assert longer.step == 2
    for name, weights in longer.adapter.weights().items():
        torch.testing.assert_close(weights, trained[name])
    longer.run()
    assert longer.step == 3
    manifest = json.loads((tmp_path / "run" / "sharedllm.json").read_text())
    assert manifest["notes"]["steps"] == 3
    answering = SharedLLM.from_pretrained(folder, adapter=tmp_path / "run", device="cpu")
    assert answering.search.budget == 300
    further = config.model_copy(update={"start": str(tmp_path / "run"), "steps": 1})
    started = Trainer(further, device="cpu")
    for name, weights in started.adapter.weights().items():
        saved = longer.adapter.weights()[name].bfloat16().float()
        torch.testing.assert_close(weights, saved)
    assert list((tmp_path / "run").rglob("events.out*"))


def test_processes_that_are_no_ddp_are_refused() -> None:
    from accelerate.utils import DistributedType

    from sharedllm.training.trainer import _require_processes

    started = SimpleNamespace(distributed_type=DistributedType.FSDP)
    with pytest.raises(ConfigError, match="started for FSDP"):
        _require_processes(started)  # type: ignore[arg-type]


def test_nothing_to_go_on_from_is_said(tmp_path: Path) -> None:
    from sharedllm.training.trainer import Trainer

    folder = tmp_path / "model"
    make_model("llama", max_position_embeddings=4096).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    with pytest.raises(ConfigError, match="no saved state"):
        Trainer(read_config(toml(tmp_path, model=str(folder))), resume=True, device="cpu")
