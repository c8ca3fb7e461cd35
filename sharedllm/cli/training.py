"""``sharedllm train`` and ``sharedllm train-search``.

Only typer is imported at the top: help and usage errors must not wait for torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sharedllm.cli.options import Device
from sharedllm.errors import MissingExtraError

if TYPE_CHECKING:
    from sharedllm.training.train_config import TrainConfig

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

Config = Annotated[
    str, typer.Option("--config", metavar="FILE", help="A TOML file; docs/training.md.")
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Where the file's relative data paths start.",
        show_default="the folder of --config",
    ),
]


@app.command()
def train(
    config: Config,
    data: Data = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last save.")] = False,
    device: Device = None,
) -> None:
    """Train adapters for lower and upper model (needs the extra "train").

    [bold]Example:[/bold]  sharedllm train --config run.toml
    """
    settings = _read(config, data)
    from sharedllm.training.trainer import Trainer

    Trainer(settings, resume=resume, **_given(device)).run()


@app.command()
def train_search(
    config: Config,
    adapter: Annotated[
        str,
        typer.Option("--adapter", metavar="DIR", help="The adapter's folder; gets the projection."),
    ],
    data: Data = None,
    device: Device = None,
) -> None:
    """Train the projection of a question's search vectors (needs the extra "train").

    [bold]Example:[/bold]  sharedllm train-search --config run.toml --adapter runs/first
    """
    settings = _read(config, data)
    from sharedllm.training import query_projection

    query_projection.run(settings, Path(adapter), typer.echo, **_given(device))


def _read(config: str, data: str | None) -> TrainConfig:
    try:
        from sharedllm.training.train_config import read_config, require_data
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "train") from error
    settings = read_config(Path(config), Path(data) if data else None)
    require_data(settings)
    return settings


def _given(device: str | None) -> dict[str, Any]:
    return {} if device is None else {"device": device}
