"""The training loop: one process or many, resumable, with a log of each task's loss."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from sharedllm.config import InjectionConfig, TreeConfig
from sharedllm.errors import ConfigError
from sharedllm.shared_llm import SharedLLM
from sharedllm.training.adapters import Roles
from sharedllm.training.batch import Choice, Chooser, losses
from sharedllm.training.config import TrainConfig
from sharedllm.training.data import Mixture


class Choices(IterableDataset[Choice]):
    """The endless stream of choices; every worker of every process draws its own."""

    def __init__(self, config: TrainConfig, llm: SharedLLM, process: int, start: int) -> None:
        self._config, self._tokenizer, self._tree = config, llm.tokenizer, llm.tree
        self._end_id = llm.tokenizer.eos_token_id
        self._process, self._start = process, start

    def __iter__(self) -> Iterator[Choice]:
        info = get_worker_info()
        # the step at which a run goes on is part of the seed: it sees new examples, not old ones
        seed = hash((self._config.seed, self._start, self._process, info.id if info else 0))
        chooser = Chooser(
            self._tokenizer, self._tree, self._config.selection, self._end_id, abs(seed)
        )
        for example in Mixture(self._config.data, abs(seed)):
            if example.answer.strip() and example.past.strip():
                yield chooser(example)


class _Losses(nn.Module):
    """The loss as a module, so that DDP sees one forward pass."""

    def __init__(self, llm: SharedLLM) -> None:
        super().__init__()
        self.model = llm.model
        self._llm = [llm]  # in a list: not a submodule

    def forward(self, choices: list[Choice]) -> Tensor:
        llm = self._llm[0]
        return losses(llm.lower, llm.upper, llm.tokenizer, choices)


class Trainer:
    """One run.

    Parameters
    ----------
    config : TrainConfig
    resume : bool
        Go on from the last state under ``config.out``.
    options : passed to ``SharedLLM.from_pretrained`` (device, dtype, ...)
    """

    def __init__(self, config: TrainConfig, *, resume: bool = False, **options: Any) -> None:
        set_seed(config.seed)
        self.config, self.out = config, Path(config.out)
        # a batch of text leaves alone leaves the lower adapter without gradients
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(
            log_with="tensorboard", project_dir=config.out, kwargs_handlers=[unused]
        )
        self.llm = SharedLLM.from_pretrained(
            config.model,
            tree=TreeConfig(),
            injection=InjectionConfig(
                mode=config.mode, layers=config.layers, positions=config.positions
            ),
            device=options.pop("device", str(self.accelerator.device)),
            **options,
        )
        self.roles = Roles(self.llm, config.adapter)
        self.optimizer = torch.optim.AdamW(
            self.roles.parameters(),
            lr=config.learning_rate,
            betas=(0.9, 0.999),
            weight_decay=config.weight_decay,
        )
        self.step = 0
        if resume:
            self._resume()
        self.llm.model.train()
        self.module, self.optimizer = self.accelerator.prepare(_Losses(self.llm), self.optimizer)

    def run(self) -> None:
        """Train up to ``config.steps`` and save."""
        dataset = Choices(self.config, self.llm, self.accelerator.process_index, start=self.step)
        loader = DataLoader(
            dataset,
            batch_size=self.config.batch,
            collate_fn=list,
            num_workers=self.config.workers,
        )
        self.accelerator.init_trackers("sharedllm", config={"seed": self.config.seed})
        log = _Log(self.accelerator, self.config.log_every)
        for choices in loader:
            if self.step >= self.config.steps:
                break
            self._set_rate()
            each = self._step(choices)
            self.step += 1
            log.add(self.step, self.config.steps, choices, each)
            if self.step % self.config.save_every == 0:
                self.save()
        self.save()
        self.accelerator.end_training()

    def _step(self, choices: list[Choice]) -> Tensor:
        with _bf16(self.accelerator.device):
            each: Tensor = self.module(choices)
        self.accelerator.backward(each.mean())
        self.accelerator.clip_grad_norm_(self.roles.parameters(), self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return each.detach()

    def _set_rate(self) -> None:
        """Linear warm-up, then a cosine to zero."""
        warm = max(1, int(self.config.warmup * self.config.steps))
        if self.step < warm:
            share = (self.step + 1) / warm
        else:
            share = 0.5 + 0.5 * math.cos(
                math.pi * (self.step - warm) / max(1, self.config.steps - warm)
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * share

    def save(self) -> None:
        """Write the adapter, and what is needed to go on."""
        if not self.accelerator.is_main_process:
            return
        self.roles.save(self.out, step=self.step, train=self.config.model_dump(mode="json"))
        # the weights too: step, optimizer and adapter are always of one moment
        state = {
            "weights": self.roles.weights(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        scratch = self.out / "state.tmp"
        torch.save(state, scratch)
        scratch.rename(self.out / "state.pt")

    def _resume(self) -> None:
        if not (self.out / "state.pt").is_file():
            raise ConfigError(
                f"there is nothing to go on from in {str(self.out)!r} (state.pt); start without "
                "--resume"
            )
        state = torch.load(self.out / "state.pt", weights_only=True, map_location="cpu")
        self.roles.set(state["weights"], self.out)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])


def _bf16(device: torch.device) -> torch.autocast:
    """Adapters are float32 on a bfloat16 base: multiply in bfloat16 on CUDA."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


class _Log:
    """Losses by task, tokens a second: to TensorBoard and the terminal."""

    def __init__(self, accelerator: Accelerator, every: int) -> None:
        self._accelerator, self._every = accelerator, every
        self._losses: dict[str, list[float]] = defaultdict(list)
        self._tokens, self._since = 0, time.perf_counter()

    def add(self, step: int, steps: int, choices: list[Choice], each: Tensor) -> None:
        for choice, loss in zip(choices, each.tolist(), strict=True):
            self._losses[choice.kind].append(loss)
            self._tokens += sum(map(len, choice.plan.conversation.documents)) + len(choice.target)
        if step % self._every:
            return
        seconds = time.perf_counter() - self._since
        means = {kind: sum(v) / len(v) for kind, v in sorted(self._losses.items())}
        rate = self._tokens / seconds
        self._accelerator.log({**means, "tokens_per_second": rate}, step=step)
        shown = "  ".join(f"{kind} {loss:.3f}" for kind, loss in means.items())
        self._accelerator.print(f"step {step}/{steps}  {rate:,.0f} tokens/s  {shown}", flush=True)
        self._losses.clear()
        self._tokens, self._since = 0, time.perf_counter()
