"""The training loop of adapters: one process or several (DDP), resumable, logging by task."""

from __future__ import annotations

import math
import pickle
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, broadcast, set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from sharedllm.config import AdapterConfig, InjectionConfig, TreeConfig
from sharedllm.errors import ConfigError
from sharedllm.generation.prompt import turn_end
from sharedllm.hf import lora_io
from sharedllm.hf.attention_interface import fuse_norms
from sharedllm.hf.loading import DEFAULT_NAME
from sharedllm.hf.lora import Adapter
from sharedllm.shared_llm import SharedLLM
from sharedllm.training.batch import Choice, Chooser, losses
from sharedllm.training.data import Mixture
from sharedllm.training.train_config import TrainConfig

PREFETCH = 8  # batches that a worker prepares ahead, because examples differ in length


class Choices(IterableDataset[Choice]):
    """Endless stream of choices; every worker of every process draws its own."""

    def __init__(self, config: TrainConfig, llm: SharedLLM, process: int, start: int) -> None:
        self._config, self._tokenizer, self._tree = config, llm.tokenizer, llm.tree
        self._end_id = turn_end(llm.tokenizer)
        self._lead = llm.adapter.config.answer_lead if llm.adapter else ""
        self._process, self._start = process, start

    def __iter__(self) -> Iterator[Choice]:
        info = get_worker_info()
        # the first step is part of the seed, so that a resumed run sees new examples
        seed = hash((self._config.seed, self._start, self._process, info.id if info else 0))
        chooser = Chooser(
            self._tokenizer,
            self._tree,
            self._config.selection,
            self._end_id,
            abs(seed),
            lead=self._lead,
            lessons=self._config.distil > 0,
        )
        for example in Mixture(self._config.data, abs(seed)):
            if example.answer.strip() and example.past.strip():
                yield chooser(example)


class _Losses(nn.Module):
    """The loss as a module, so that DDP sees one forward pass."""

    def __init__(self, llm: SharedLLM, checkpoint_above: int | None, distil: float) -> None:
        super().__init__()
        self.model, self._above, self._distil = llm.model, checkpoint_above, distil
        self._llm = [llm]  # in a list: not a submodule

    def forward(self, choices: list[Choice]) -> Tensor:
        tokens = sum(choice.tokens for choice in choices)
        checkpointing = self._above is not None and tokens > self._above
        return losses(self._llm[0], choices, checkpointing=checkpointing, distil=self._distil)


class Trainer:
    """A training run.

    Parameters
    ----------
    config : TrainConfig
    resume : bool
        Continue from the last state under ``config.out``.
    options : passed to ``SharedLLM.from_pretrained`` (device, dtype, ...)
    """

    def __init__(self, config: TrainConfig, *, resume: bool = False, **options: Any) -> None:
        set_seed(config.seed)
        self.config, self.out = config, Path(config.out)
        # a batch with leaves only as text gives the lower adapter no gradients
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(
            log_with="tensorboard" if config.tensorboard else None,
            project_dir=config.out,
            kwargs_handlers=[unused],
        )
        _require_processes(self.accelerator)
        options.setdefault("device", self.accelerator.device)
        options.setdefault("dtype", None if _cuda(self.accelerator) else "float32")
        self.llm = SharedLLM.from_pretrained(
            config.model,
            adapter=config.start,
            tree=TreeConfig.from_dict(config.tree),
            injection=InjectionConfig(
                mode=config.mode, layers=config.layers, positions=config.positions
            ),
            **options,
        )
        adapter = self.llm.adapter
        if adapter is None:
            settings = AdapterConfig.from_dict(config.adapter.model_dump())
            adapter = Adapter(self.llm.model, settings)
            self.llm.adapt(adapter)
        self.adapter = adapter
        adapter.train()
        self.optimizer = torch.optim.AdamW(
            adapter.parameters().values(),
            lr=config.learning_rate,
            betas=(0.9, 0.999),
            weight_decay=config.weight_decay,
            fused=_cuda(self.accelerator),
        )
        self.step, self.seconds = 0, 0.0
        if resume:
            self._resume()
        fuse_norms(self.llm.model)
        self.llm.model.train()
        module = _Losses(self.llm, config.checkpoint_above, config.distil)
        self.module, self.optimizer = self.accelerator.prepare(module, self.optimizer)

    def run(self) -> None:
        """Train up to ``config.steps`` or ``config.minutes``, and save."""
        dataset = Choices(self.config, self.llm, self.accelerator.process_index, start=self.step)
        workers = self.config.workers
        loader = DataLoader(
            dataset,
            batch_size=self.config.batch,
            # one bytes object per batch: torch's sharing would hold a file open for each tensor
            collate_fn=pickle.dumps,
            num_workers=workers,
            prefetch_factor=PREFETCH if workers else None,
        )
        self.accelerator.init_trackers("sharedllm", config={"seed": self.config.seed})
        log = _Log(self.accelerator, self.config.log_every)
        before, started = self.seconds, time.perf_counter()
        for batch in loader:
            if self._progress() >= 1:
                break
            choices: list[Choice] = pickle.loads(batch)
            self._set_rate()
            each = self._step(choices)
            self.step += 1
            self.seconds = self._agreed(before + time.perf_counter() - started)
            log.add(self.step, self.config.steps, choices, each)
            if self.step % self.config.save_every == 0:
                self.save()
        self.save()
        # Without this a process may exit while a thread still frees the tensors of the last
        # broadcast, and the two wait for each other.
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()

    def _step(self, choices: list[Choice]) -> Tensor:
        with _bf16(self.accelerator.device):
            each: Tensor = self.module(choices)
        self.accelerator.backward(each.mean())
        self.accelerator.clip_grad_norm_(self.adapter.parameters().values(), self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return each.detach()

    def _agreed(self, seconds: float) -> float:
        """Return the first process's clock, so that all processes stop at the same step."""
        if self.accelerator.num_processes == 1:
            return seconds
        clock = torch.tensor(seconds, device=self.accelerator.device)
        return float(broadcast(clock))

    def _progress(self) -> float:
        """Return the share of the run that is done, by steps or by time, the larger."""
        share = self.step / self.config.steps
        if self.config.minutes is not None:
            share = max(share, self.seconds / (60 * self.config.minutes))
        return share

    def _set_rate(self) -> None:
        """Set the learning rate: linear warm-up, then a cosine to zero."""
        done, warm = self._progress(), self.config.warmup
        if done < warm:
            share = (done + 1 / self.config.steps) / warm
        else:
            share = 0.5 + 0.5 * math.cos(math.pi * (done - warm) / (1 - warm))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * min(1.0, share)

    def save(self) -> None:
        """Write the adapter, and the state from which the run can be resumed."""
        if not self.accelerator.is_main_process:
            return
        train = self.config.model_dump(mode="json")
        manifest = lora_io.Manifest(
            base=str(self.config.model or DEFAULT_NAME),
            adapter=self.adapter.config,
            tree=self.llm.tree,
            injection=self.llm.injection,
            search=self.config.search,
            notes={"steps": self.step, "minutes": round(self.seconds / 60, 1), "train": train},
        )
        lora_io.save(self.adapter, self.out, manifest, torch.bfloat16)
        # with the weights, so that step, optimizer and weights are always of the same step
        state = {
            "weights": self.adapter.weights(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        scratch = self.out / "state.tmp"
        torch.save(state, scratch)
        scratch.rename(self.out / "state.pt")

    def _resume(self) -> None:
        if not (self.out / "state.pt").is_file():
            raise ConfigError(
                f"no saved state in {str(self.out)!r} (state.pt) to resume from; start without "
                "--resume"
            )
        state = torch.load(self.out / "state.pt", weights_only=True, map_location="cpu")
        self.adapter.set(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])


def _require_processes(accelerator: Accelerator) -> None:
    """Refuse accelerate launches other than one process or DDP."""
    kind = accelerator.distributed_type
    if kind not in (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU):
        raise ConfigError(
            f"accelerate was started for {kind.value}; allowed is one process, or several under "
            "DDP: start it plainly or with torchrun"
        )


def _cuda(accelerator: Accelerator) -> bool:
    return bool(accelerator.device.type == "cuda")


def _bf16(device: torch.device) -> torch.autocast:
    """Return autocast to bfloat16 on CUDA, for float32 adapters on a bfloat16 base."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def _peak(device: torch.device) -> str:
    """Return the peak of allocated memory as text; empty on the CPU."""
    if device.type != "cuda":
        return ""
    return f"  {torch.cuda.max_memory_allocated(device) / 2**30:.0f} GiB"


class _Log:
    """Logs losses by task and tokens per second, to TensorBoard and the terminal.

    Losses are read from the device only when they are shown, because reading synchronises.
    """

    def __init__(self, accelerator: Accelerator, every: int) -> None:
        self._accelerator, self._every = accelerator, every
        self._losses: list[tuple[list[Choice], Tensor]] = []
        self._since = time.perf_counter()

    def add(self, step: int, steps: int, choices: list[Choice], each: Tensor) -> None:
        self._losses.append((choices, each))
        if step % self._every:
            return
        by_kind: dict[str, list[float]] = defaultdict(list)
        tokens = 0
        for group, losses_ in self._losses:
            for choice, loss in zip(group, losses_.tolist(), strict=True):
                by_kind[choice.kind].append(loss)
                tokens += sum(map(len, choice.plan.conversation.documents)) + len(choice.target)
        rate = tokens / (time.perf_counter() - self._since)
        means = {kind: sum(v) / len(v) for kind, v in sorted(by_kind.items())}
        self._accelerator.log({**means, "tokens_per_second": rate}, step=step)
        shown = "  ".join(f"{kind} {loss:.2f}" for kind, loss in means.items())
        speed = f"{rate:,.0f} tokens/s{_peak(self._accelerator.device)}"
        self._accelerator.print(f"step {step}/{steps}  {speed}  {shown}", flush=True)
        self._losses.clear()
        self._since = time.perf_counter()
