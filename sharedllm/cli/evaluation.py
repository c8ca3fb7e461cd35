"""``sharedllm eval qa`` and ``sharedllm eval needle``.

Only typer is imported at the top: help and usage errors must not wait for torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sharedllm.cli.options import (
    DEFAULT_MODEL,
    Coarse,
    Device,
    Dtype,
    Leaves,
    Quantize,
    Scorer,
    Selecting,
    Sentences,
)
from sharedllm.config import GenerationConfig
from sharedllm.errors import ConfigError
from sharedllm.evaluation.options import BUDGETS, Settings, parse_sizes, require_share

if TYPE_CHECKING:
    from sharedllm.evaluation.filler import Filler

app = typer.Typer(
    help="Measure a model on long text, beside baselines on the same items.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Hugging Face name, folder or .gguf file.",
        show_default=DEFAULT_MODEL,
    ),
]
Adapter = Annotated[
    str, typer.Option(metavar="A", help="default, none, or a folder with an adapter.")
]
Lengths = Annotated[
    list[str] | None,
    typer.Option(metavar="N,N", help="Tokens of each item: 4096,16K,1M.", show_default="4K,16K"),
]
Budget = Annotated[
    list[str] | None,
    typer.Option(
        metavar="N,N",
        help="Token budgets: evidence pasted as text, plus injected KV entries.",
        show_default=f"{','.join(map(str, BUDGETS))}, as far as the model's window allows",
    ),
]
Baselines = Annotated[
    str,
    typer.Option(metavar="B,B", help="all, none, or some of full,truncated,bm25,minilm."),
]
BaselineAdapter = Annotated[
    bool,
    typer.Option("--baseline-adapter", help="Also run baselines with the adapter."),
]
Filling = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATH", help='Unrelated text: files, or .jsonl(.xz) with "text". Again for more.'
    ),
]
Items = Annotated[int, typer.Option(metavar="N", help="Items in each cell.")]
Batch = Annotated[int, typer.Option(metavar="N", help="Items run at once.")]
Seed = Annotated[int, typer.Option(metavar="N", help="The same seed gives the same items.")]
ListPenalty = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Penalty, in nats, on repeating an item of a list.",
        show_default=f"{GenerationConfig().list_penalty:g}",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Out = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the JSON object, with every row.")
]
Data = Annotated[
    list[str] | None, typer.Option(metavar="PATH", help="Rows in .jsonl(.xz). Again for more.")
]


@app.command()
def needle(
    model: Model = None,
    lengths: Lengths = None,
    budget: Budget = None,
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
    quantize: Quantize = None,
    as_json: AsJson = False,
    out: Out = None,
) -> None:
    """Ask for statements planted at any depth of your own text.

    [bold]Example:[/bold]  sharedllm eval needle --lengths 4K,32K --filler novel.txt --items 10
    """
    settings = settings_of({**locals(), "default_lengths": ("4K", "16K")})
    from sharedllm.evaluation.needle import run_needle

    run_needle(settings, filler_of(filler))


@app.command()
def qa(
    data: Data = None,
    model: Model = None,
    lengths: Annotated[
        list[str] | None,
        typer.Option(
            "--lengths",
            "--within",
            metavar="N,N",
            help="Put each passage at a random depth of this many tokens of --filler.",
            show_default="the passage alone",
        ),
    ] = None,
    filler: Filling = None,
    absent: Annotated[
        float, typer.Option(metavar="SHARE", help="Items asked without their passage.")
    ] = 0.0,
    skip: Annotated[
        list[str] | None,
        typer.Option(
            metavar="S", help="Leave out questions whose source starts so. Again for more."
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(metavar="N", help="Longest answer.")] = 64,
    budget: Budget = None,
    items: Items = 50,
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
    quantize: Quantize = None,
    as_json: AsJson = False,
    out: Out = None,
) -> None:
    """Ask questions with known answers: your own .jsonl(.xz), LongBench or L-Eval.

    [bold]Example:[/bold]  sharedllm eval qa --data qa.jsonl --within 32K --filler novel.txt
    """
    settings = settings_of({**locals(), "default_lengths": ()})
    from sharedllm.evaluation.qa import Asked, run_qa

    asked = Asked(
        absent=require_share("--absent", absent), new_tokens=max_new_tokens, skip=skip or ()
    )
    run_qa(settings, required(data), filler_of(filler), asked)


def settings_of(given: dict[str, Any]) -> Settings:
    """Build the common settings from a command's options."""

    def chosen(*names: str) -> dict[str, Any]:
        return {name: given[name] for name in names if given.get(name) is not None}

    lengths = given.get("lengths") or given["default_lengths"]
    plain = (
        *("model", "baselines", "baseline_adapter", "items", "batch", "seed"),
        *("device", "dtype", "quantize", "as_json", "out"),
    )
    return Settings(
        adapter=None if given["adapter"] == "none" else given["adapter"],
        lengths=parse_sizes("--lengths", lengths),
        budgets=parse_sizes("--budget", given.get("budget") or (), least=1),
        search=chosen("scorer", "selection", "leaves", "coarse", "sentences"),
        generation=chosen("list_penalty"),
        **{name: given[name] for name in plain if name in given},
    )


def filler_of(paths: list[str] | None) -> Filler | None:
    if not paths:
        return None
    from sharedllm.evaluation.filler import Filler

    return Filler(paths)


def required(data: list[str] | None) -> list[str]:
    if not data:
        raise ConfigError("--data is missing; give a .jsonl or .jsonl.xz file")
    return data
