"""Training on a tiny model: the tasks are sound, gradients reach both roles, a run can go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("peft", reason="needs the extra [train]")

from sharedllm import SharedLLM
from sharedllm.errors import ConfigError, ModelNotFoundError
from sharedllm.training.batch import Chooser, losses
from sharedllm.training.config import AdapterConfig, SelectionConfig, read_config
from sharedllm.training.data import Mixture
from tests.models import make_model, make_tokenizer, shared
from tests.texts import STORY

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
FILLER = STORY * 3


def toml(tmp_path: Path, **changes: object) -> Path:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": FILLER}) + "\n" for _ in range(3)))
    settings = {"out": str(tmp_path / "run"), "steps": 2, **changes}
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    lines += ["[data]", f"documents = [{json.dumps(str(texts))}]", "past_tokens = [40, 80]"]
    lines += ["running_tokens = 10"]
    for task in ("lm", "retrieval"):
        lines += ["[[data.sources]]", f'task = "{task}"', "weight = 1.0"]
    path = tmp_path / "run.toml"
    path.write_text("\n".join(lines))
    return path


def test_a_configuration_is_checked(tmp_path: Path) -> None:
    assert read_config(toml(tmp_path)).steps == 2
    with pytest.raises(ConfigError, match="setps"):
        read_config(toml(tmp_path, setps=3))
    with pytest.raises(ConfigError, match="steps"):
        read_config(toml(tmp_path, steps=0))
    with pytest.raises(ConfigError, match="no file"):
        read_config(tmp_path / "none.toml")


def choices(llm: SharedLLM, tmp_path: Path, finest: str, n: int = 3) -> list:  # type: ignore[type-arg]
    config = SelectionConfig(budget=(40, 60), finest=(finest,), rest=1.0)  # type: ignore[arg-type]
    chooser = Chooser(llm.tokenizer, llm.tree, config, 256, seed=1)
    stream = iter(Mixture(read_config(toml(tmp_path)).data, 5))
    return [chooser(next(stream)) for _ in range(n)]


@pytest.mark.parametrize("finest", ["text", "kv"])
def test_the_loss_reaches_both_roles_and_each_alone(tmp_path: Path, finest: str) -> None:
    from sharedllm.training.adapters import Roles

    llm = shared("llama")
    batch = choices(llm, tmp_path, finest)
    before = losses(llm.lower, llm.upper, llm.tokenizer, batch).detach()
    roles = Roles(llm, AdapterConfig(rank=2))
    fresh = losses(llm.lower, llm.upper, llm.tokenizer, batch)
    torch.testing.assert_close(fresh.detach(), before)  # B starts at zero: the base itself
    fresh.mean().backward()
    named = roles.named_parameters()
    moved = {
        name.split(".")[-2] for name, p in named.items() if p.grad is not None and p.grad.any()
    }
    assert moved == {"lower", "upper"}
    one_by_one = [losses(llm.lower, llm.upper, llm.tokenizer, [c]) for c in batch]
    torch.testing.assert_close(torch.cat(one_by_one).detach(), before, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        for name, parameter in named.items():
            if ".lower." in name:
                parameter.add_(0.1)
    plain = llm.upper.logits([batch[0].plan.prompt([None], llm.tokenizer, then=(1, 2))])[0]
    with torch.no_grad():
        for name, parameter in named.items():
            if ".lower." in name:
                parameter.add_(0.1)
    again = llm.upper.logits([batch[0].plan.prompt([None], llm.tokenizer, then=(1, 2))])[0]
    torch.testing.assert_close(again, plain)  # the upper model does not see the lower's adapter
    folder = tmp_path / "adapter"
    roles.save(folder)
    other = Roles(shared("llama"), AdapterConfig(rank=2))
    other.load(folder)
    for name, parameter in other.named_parameters().items():
        torch.testing.assert_close(parameter, named[name])
    with pytest.raises(ModelNotFoundError, match="names differ"):
        Roles(shared("llama"), AdapterConfig(rank=2, roles=("upper",))).load(folder)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_learns_saves_and_goes_on(tmp_path: Path) -> None:
    from sharedllm.training.trainer import Trainer

    folder = tmp_path / "model"
    make_model("llama", max_position_embeddings=4096).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    settings = {"model": str(folder), "steps": 2, "batch": 2, "workers": 0, "log_every": 1}
    config = read_config(toml(tmp_path, **settings))
    trainer = Trainer(config, device="cpu")
    trainer.run()
    trained = {name: p.detach().clone() for name, p in trainer.roles.named_parameters().items()}
    assert any(p.abs().max() > 0 for name, p in trained.items() if "lora_B" in name)
    longer = Trainer(config.model_copy(update={"steps": 3}), resume=True, device="cpu")
    assert longer.step == 2
    for name, parameter in longer.roles.named_parameters().items():
        torch.testing.assert_close(parameter.detach(), trained[name])
    longer.run()
    assert longer.step == 3
    assert json.loads((tmp_path / "run" / "adapter.json").read_text())["step"] == 3
    assert list((tmp_path / "run").rglob("events.out*"))


def test_nothing_to_go_on_from_is_said(tmp_path: Path) -> None:
    from sharedllm.training.trainer import Trainer

    folder = tmp_path / "model"
    make_model("llama", max_position_embeddings=4096).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    with pytest.raises(ConfigError, match="nothing to go on from"):
        Trainer(read_config(toml(tmp_path, model=str(folder))), resume=True, device="cpu")
