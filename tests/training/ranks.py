"""What each process of a distributed test runs: several trainings, and what was seen of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from sharedllm.training import batch
from sharedllm.training.config import read_config
from sharedllm.training.trainer import Trainer

SMALL = 64  # tokens of a pass of the lower model, and of padding: batches make several passes


def watched(trainer: Trainer) -> dict[str, Any]:
    """Train; the losses of every step, and how many passes of each kind this process had."""
    trainer.llm.encoder.lower.batch_tokens = SMALL
    losses: list[list[float]] = []
    passes: list[int] = []
    step, module = trainer._step, trainer.module

    def kept(choices: Any) -> torch.Tensor:
        each = step(choices)
        losses.append(each.tolist())
        return each

    trainer._step = kept  # type: ignore[method-assign]
    if trainer.config.shard:
        most = module._most

        def counted(own: int) -> int:
            passes.append(int(own))
            return int(most(own))

        module._most = counted
    trainer.accelerator.end_training = lambda: None  # the processes have more to do together
    trainer.run()
    held = sum(p.numel() for p in trainer.llm.model.parameters() if not p.requires_grad)
    return {
        "losses": losses,
        "passes": passes,
        "held": held,
        "weights": {name: w.tolist() for name, w in trainer.adapter.weights().items()},
    }


def main(out: str, *configs: str) -> None:
    torch.set_num_threads(1)
    batch.PADDING = SMALL
    for path in configs:
        config = read_config(Path(path))
        trainer = Trainer(config, resume=(Path(config.out) / "state.pt").is_file())
        rank = trainer.accelerator.process_index
        (Path(out) / f"{Path(path).stem}.{rank}.json").write_text(json.dumps(watched(trainer)))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
