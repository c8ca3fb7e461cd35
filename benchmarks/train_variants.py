"""Trains variants side by side on one GPU, and compares their losses step by step.

    python benchmarks/train_variants.py --data SUBSET --out OUT --minutes 8
    python benchmarks/train_variants.py --out OUT --compare

The table is over the last steps that all have reached: mean loss by task, and its difference to
that of the first one named, with a 95 % interval over blocks of ten steps. Variants of one seed
draw the same examples.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

from rich.console import Console
from rich.table import Table

STEP = re.compile(r"^step (\d+)/")
LOSS = re.compile(r"  ([a-z_]+)/(?:kv|text) (-?\d+\.\d+|nan)")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=Path(__file__).with_suffix(".toml"))
    parser.add_argument("--data", type=Path, help="the training data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--model", default=None)
    parser.add_argument("--only", nargs="+", default=None, help="names of variants")
    parser.add_argument("--compare", action="store_true", help="only compare the logs in --out")
    args = parser.parse_args()
    if not args.compare:
        train(args)
    compare(args.out, args.only)


def train(args: argparse.Namespace) -> None:
    """One process a variant, its log beside its folder."""
    common = tomllib.loads(args.config.read_text(encoding="utf-8"))
    variants = common.pop("variants")
    running = {}
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.only or variants:
        settings = common | variants[name]
        settings |= {"out": str(args.out / name), "minutes": args.minutes}
        if args.model:
            settings["model"] = args.model
        file = args.out / f"{name}.toml"
        file.write_text("\n".join(f"{k} = {toml(v)}" for k, v in settings.items()))
        command = [sys.executable, "-m", "sharedllm", "train"]
        command += ["--config", str(file), "--data", str(args.data)]
        log = (args.out / f"{name}.log").open("w", encoding="utf-8")
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        running[name] = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    for name, process in running.items():
        if process.wait():
            last = (args.out / f"{name}.log").read_text(encoding="utf-8").strip().splitlines()
            print(f"{name} failed: {last[-1:]}")


def toml(value: object) -> str:
    """`value` as inline TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, int | float) else f'"{value}"'


def compare(out: Path, only: list[str] | None) -> None:
    """Print the table."""
    found = only or sorted(log.stem for log in out.glob("*.log"))
    logs = {name: read(out / f"{name}.log") for name in found}
    logs = {name: blocks for name, blocks in logs.items() if blocks}
    last = min(max(blocks) for blocks in logs.values())
    steps = [step for step in range(10, last + 1, 10) if step > last * 2 / 3]
    names = list(logs)
    tasks = sorted({task for blocks in logs.values() for step in steps for task in blocks[step]})
    table = Table(title=f"mean loss in steps {steps[0] - 9} to {last}, and minus {names[0]}'s")
    for column in ("task", *names):
        table.add_column(column)
    for task in ("all tasks", *tasks):
        series = {n: [value(logs[n][step], task) for step in steps] for n in names}
        cells = [task]
        for name in names:
            pairs = list(zip(series[name], series[names[0]], strict=True))
            gaps = [a - b for a, b in pairs if not math.isnan(a - b)]
            mean = statistics.fmean(x for x in series[name] if not math.isnan(x))
            half = 1.96 * statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
            cells.append(f"{mean:.2f} ({statistics.fmean(gaps):+.2f}±{half:.2f})")
        table.add_row(*cells)
    Console(width=180).print(table)
    print("steps reached:", {name: max(blocks) for name, blocks in logs.items()})


def read(log: Path) -> dict[int, dict[str, float]]:
    """Step -> loss by task, of each block of ten steps."""
    out = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        if found := STEP.match(line):
            out[int(found[1])] = {task: float(loss) for task, loss in LOSS.findall(line)}
    return out


def value(losses: dict[str, float], task: str) -> float:
    if task == "all tasks":
        return statistics.fmean(losses.values())
    return losses.get(task, math.nan)


if __name__ == "__main__":
    main()
