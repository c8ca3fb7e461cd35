"""``sharedllm eval needle|perplexity|qa|chat``: options, and what each command runs.

Only typer is imported at the top: help and usage errors must not wait for torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sharedllm.config import FINEST, POLICIES, RESTS, SEARCHES
from sharedllm.errors import ConfigError
from sharedllm.evaluation.settings import Settings, share, sizes

if TYPE_CHECKING:
    from sharedllm.evaluation.sources import Filler

PASTS = ("0,2K,4K,6K,14K,30K,62K,126K",)
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
        show_default="the embedded SmolLM2-135M-Instruct",
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
        help="Attention entries beyond head and question.",
        show_default="1024,2048,5120",
    ),
]
Baselines = Annotated[
    str,
    typer.Option(
        metavar="B,B", help="all, none, or some of full,truncated,yarn,streaming,bm25,minilm."
    ),
]
BaselineAdapter = Annotated[
    bool,
    typer.Option("--baseline-adapter", help="Let the adapter read what baselines paste, too."),
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
Policy = Annotated[
    str | None, typer.Option(metavar="P", help=f"What scores a passage: {', '.join(POLICIES)}.")
]
Search = Annotated[
    str | None, typer.Option(metavar="S", help=f"How passages are selected: {', '.join(SEARCHES)}.")
]
Finest = Annotated[
    str | None,
    typer.Option(metavar="F", help=f"How selected passages enter: {', '.join(FINEST)}."),
]
Rest = Annotated[
    str | None,
    typer.Option(metavar="R", help=f"The compressed remainder: {', '.join(RESTS)}."),
]
Sentences = Annotated[
    int | None,
    typer.Option(metavar="N", help="Most tokens that complete a cut sentence, on either side."),
]
ListPenalty = Annotated[
    float | None,
    typer.Option(metavar="X", help="Nats against giving an item of a list again."),
]
YarnLimit = Annotated[
    int, typer.Option(metavar="F", help="The largest factor by which YaRN extends the window.")
]
StreamingWindow = Annotated[
    int | None,
    typer.Option(metavar="N", help="StreamingLLM's entries beside 4 sinks.", show_default="2044"),
]
Device = Annotated[str | None, typer.Option(metavar="D", help="cpu, cuda or cuda:N.")]
Dtype = Annotated[str | None, typer.Option(metavar="T", help="float32, bfloat16 or float16.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Out = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the JSON object, with every row.")
]
Plot = Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the results.")]
Tasks = Annotated[
    str | None,
    typer.Option(
        metavar="T,T", help="RULER's tasks by name, and two_hop.", show_default="all twelve"
    ),
]
Data = Annotated[
    list[str] | None, typer.Option(metavar="PATH", help="Rows in .jsonl(.xz). Again for more.")
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
def needle(
    model: Model = None,
    lengths: Lengths = None,
    budget: Budget = None,
    tasks: Tasks = None,
    filler: Filling = None,
    items: Items = 20,
    baselines: Baselines = "all",
    baseline_adapter: BaselineAdapter = False,
    adapter: Adapter = "default",
    policy: Policy = None,
    search: Search = None,
    finest: Finest = None,
    rest: Rest = None,
    sentences: Sentences = None,
    list_penalty: ListPenalty = None,
    yarn_limit: YarnLimit = 16,
    streaming_window: StreamingWindow = None,
    batch: Batch = 8,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
    out: Out = None,
    plot: Plot = None,
) -> None:
    """RULER's retrieval, tracing and aggregation tasks at any length.

    [bold]Example:[/bold]  sharedllm eval needle --lengths 4K,32K --filler novel.txt --items 10
    """
    settings = _settings({**locals(), "default_lengths": ("4K", "16K")})
    from sharedllm.evaluation.tasks import run_needle

    run_needle(settings, _named_tasks(tasks), _filler(filler))


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
            help="Put each passage at a random depth of so many tokens of --filler.",
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
    policy: Policy = None,
    search: Search = None,
    finest: Finest = None,
    rest: Rest = None,
    sentences: Sentences = None,
    list_penalty: ListPenalty = None,
    yarn_limit: YarnLimit = 16,
    streaming_window: StreamingWindow = None,
    batch: Batch = 8,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
    out: Out = None,
    plot: Plot = None,
) -> None:
    """Questions with known answers: .jsonl(.xz) of context, question, answer; LongBench; L-Eval.

    [bold]Example:[/bold]  sharedllm eval qa --data qa.jsonl --within 32K --filler novel.txt
    """
    settings = _settings({**locals(), "default_lengths": ()})
    from sharedllm.evaluation.tasks import Asked, run_qa

    asked = Asked(absent=share("--absent", absent), new_tokens=max_new_tokens, skip=skip or ())
    run_qa(settings, _given(data), _filler(filler), asked)


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
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="P",
            help="What scores a passage; all but right take the running text's beginning.",
            show_default="right",
        ),
    ] = None,
    search: Search = None,
    finest: Finest = None,
    rest: Rest = None,
    sentences: Sentences = None,
    yarn_limit: YarnLimit = 16,
    streaming_window: StreamingWindow = None,
    batch: Batch = 4,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
    out: Out = None,
    plot: Plot = None,
) -> None:
    """Perplexity of running text after a growing past, and of its key tokens.

    [bold]Example:[/bold]  sharedllm eval perplexity --data books.jsonl --lengths 0,4K,30K
    """
    settings = _settings({**locals(), "default_lengths": PASTS})
    from sharedllm.evaluation.lm import Windows
    from sharedllm.evaluation.tasks import run_perplexity

    windows = Windows(
        pasts=settings.lengths, running=running, scored=scored, gain=key_gain, sure=key_sure
    )
    run_perplexity(settings, _given(data), windows, join=join)


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
    plot: Plot = None,
) -> None:
    """Whether instruction following is kept: likelihood of replies without any documents.

    [bold]Example:[/bold]  sharedllm eval chat --adapter my_adapter
    """
    settings = _settings({**locals(), "default_lengths": ()})
    from sharedllm.evaluation.tasks import run_chat

    run_chat(settings, data or [])


def _settings(given: dict[str, Any]) -> Settings:
    """The common settings from a command's own options."""

    def chosen(*names: str) -> dict[str, Any]:
        return {name: given[name] for name in names if given.get(name) is not None}

    lengths = given.get("lengths") or given["default_lengths"]
    plain = (
        *("model", "baselines", "baseline_adapter", "items", "batch", "seed", "yarn_limit"),
        *("streaming_window", "device", "dtype", "as_json", "out", "plot"),
    )
    return Settings(
        adapter=None if given["adapter"] == "none" else given["adapter"],
        lengths=sizes("--lengths", lengths),
        budgets=sizes("--budget", given.get("budget") or (), least=1),
        search=chosen("policy", "search", "finest", "rest", "sentences"),
        generation=chosen("list_penalty"),
        **{name: given[name] for name in plain if name in given},
    )


def _filler(paths: list[str] | None) -> Filler | None:
    if not paths:
        return None
    from sharedllm.evaluation.sources import Filler

    return Filler(paths)


def _given(data: list[str] | None) -> list[str]:
    if not data:
        raise ConfigError("--data is missing; give a .jsonl or .jsonl.xz file")
    return data


def _named_tasks(names: str | None) -> tuple[str, ...]:
    from sharedllm.evaluation.ruler import TASKS

    given = TASKS if names is None else tuple(n.strip() for n in names.split(",") if n.strip())
    unknown = [name for name in given if name not in TASKS]
    if unknown or not given:
        raise ConfigError(f"--tasks is {names!r}; allowed: {', '.join(TASKS)}, with commas between")
    return tuple(dict.fromkeys(given))
