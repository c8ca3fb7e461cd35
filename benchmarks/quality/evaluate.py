"""RULER, questions, perplexity and chat, beside all baselines: what ``sharedllm eval`` leaves out.

    python -m benchmarks.quality.evaluate ruler --lengths 4K,32K,128K --filler novel.txt --items 50
    python -m benchmarks.quality.evaluate qa --data qa.jsonl.xz --within 32K --filler novel.txt
    python -m benchmarks.quality.evaluate perplexity --data books.jsonl.xz --lengths 0,4K,30K,126K
    python -m benchmarks.quality.evaluate chat --adapter my_adapter

Baselines are those of ``sharedllm eval``, YaRN and StreamingLLM. plot.py draws what `--out` wrote.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from benchmarks.quality.baselines import register
from sharedllm.cli.evaluation import (
    Adapter,
    AsJson,
    BaselineAdapter,
    Batch,
    Budget,
    Coarse,
    Data,
    Device,
    Dtype,
    Filling,
    Items,
    Leaves,
    Lengths,
    ListPenalty,
    Model,
    Out,
    Scorer,
    Seed,
    Selecting,
    Sentences,
    filler_of,
    qa,
    required,
    settings_of,
)
from sharedllm.errors import ConfigError, SharedLLMError

PASTS = ("0,2K,4K,6K,14K,30K,62K,126K",)
app = typer.Typer(
    help="RULER, questions, perplexity and chat, beside all baselines.",
    no_args_is_help=True,
    add_completion=False,
)

Baselines = Annotated[
    str,
    typer.Option(
        metavar="B,B", help="all, none, or some of full,truncated,bm25,minilm,yarn,streaming."
    ),
]
Tasks = Annotated[
    str | None,
    typer.Option(
        metavar="T,T", help="RULER's tasks by name, and two_hop.", show_default="all twelve"
    ),
]
Pasts = Annotated[
    list[str] | None,
    typer.Option(
        metavar="N,N",
        help="Tokens of past before the running text.",
        show_default="0,2K,4K,6K,14K,30K,62K,126K",
    ),
]


@app.command()
def ruler(
    model: Model = None,
    lengths: Lengths = None,
    budget: Budget = None,
    tasks: Tasks = None,
    filler: Filling = None,
    items: Items = 20,
    baselines: Baselines = "all",
    baseline_adapter: BaselineAdapter = False,
    adapter: Adapter = "default",
    scorer: Scorer = None,
    selection: Selecting = None,
    leaves: Leaves = None,
    coarse: Coarse = None,
    sentences: Sentences = None,
    list_penalty: ListPenalty = None,
    batch: Batch = 8,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
    out: Out = None,
) -> None:
    """RULER's retrieval, tracing and aggregation tasks at any length."""
    settings = settings_of({**locals(), "default_lengths": ("4K", "16K")})
    from benchmarks.quality.ruler.items import run

    run(settings, _named(tasks), filler_of(filler))


@app.command()
def perplexity(
    data: Data = None,
    model: Model = None,
    lengths: Pasts = None,
    running: Annotated[int, typer.Option(metavar="N", help="Tokens of running text.")] = 2048,
    scored: Annotated[
        int, typer.Option(metavar="N", help="The last of them that are the last window.")
    ] = 256,
    key_gain: Annotated[
        float, typer.Option(metavar="X", help="LongPPL: the least gain of a key token, in nats.")
    ] = 2.0,
    key_sure: Annotated[
        float, typer.Option(metavar="X", help="LongPPL: its least log-probability.")
    ] = -2.0,
    join: Annotated[
        bool, typer.Option("--join", help="Join texts that are too short, one after another.")
    ] = False,
    budget: Budget = None,
    items: Items = 20,
    baselines: Baselines = "all",
    baseline_adapter: BaselineAdapter = False,
    adapter: Adapter = "default",
    scorer: Annotated[
        str | None,
        typer.Option(
            metavar="P",
            help="What scores a passage; all but recency take the running text's beginning.",
            show_default="recency",
        ),
    ] = None,
    selection: Selecting = None,
    leaves: Leaves = None,
    coarse: Coarse = None,
    sentences: Sentences = None,
    batch: Batch = 4,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
    out: Out = None,
) -> None:
    """Perplexity of running text after a growing past, and of its key tokens."""
    settings = settings_of({**locals(), "default_lengths": PASTS})
    from benchmarks.quality.perplexity import Windows, run

    windows = Windows(
        pasts=settings.lengths, running=running, scored=scored, gain=key_gain, sure=key_sure
    )
    run(settings, required(data), windows, join=join)


@app.command()
def chat(
    data: Data = None,
    model: Model = None,
    adapter: Adapter = "default",
    items: Items = 200,
    batch: Batch = 8,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
    out: Out = None,
) -> None:
    """Instruction following: likelihood of replies without any documents."""
    settings = settings_of({**locals(), "default_lengths": ()})
    from benchmarks.quality.chat import run

    run(settings, data or [])


app.command()(qa)


def _named(names: str | None) -> tuple[str, ...]:
    """RULER's tasks that `--tasks` names."""
    from benchmarks.quality.ruler.items import TASKS

    given = TASKS if names is None else tuple(n.strip() for n in names.split(",") if n.strip())
    unknown = [name for name in given if name not in TASKS]
    if unknown or not given:
        raise ConfigError(f"--tasks is {names!r}; allowed: {', '.join(TASKS)}, with commas between")
    return tuple(dict.fromkeys(given))


def main(arguments: list[str] | None = None) -> int:
    """Run one command; bad input gives one line and exit code 2."""
    register()
    try:
        return int(app(arguments, standalone_mode=False) or 0)
    except (SharedLLMError, typer.TyperException) as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
