"""``sharedllm models``: the models with a short name, what is cached, and what fits this machine.

Only typer and rich are imported at the top: help and usage errors must not wait for torch.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from sharedllm.cli.options import Device
from sharedllm.cli.terminal import Screen

if TYPE_CHECKING:
    import torch

    from sharedllm.hf.models import KnownModel
    from sharedllm.hf.room import Memory

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

WIDE = 119  # columns that the table with hub names and licences needs
FITS = {
    None: "no",
    "": "yes",
    "--dtype bfloat16": "in bf16",
    "--quantize 4bit": "in 4-bit",
    "--quantize 4bit --dtype bfloat16": "4-bit+bf16",
}
LEGEND = (
    "bf16, 4-bit: GiB of weights with --dtype bfloat16, --quantize 4bit. reads: KV is injected, or "
    "text only. *: accept the terms on the hub first. Any other hub name, folder or .gguf file "
    "will do for --model as well."
)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """A model, and what it is on this machine.

    Attributes
    ----------
    injected : "KV" or "text", how evidence enters it
    cached_bytes : its size in the local cache of the hub; None if it is not there, or not whole
    fits_with : options with which it fits; None if it does not
    """

    model: KnownModel
    injected: str
    cached_bytes: int | None
    fits_with: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints of it."""
        model = self.model
        return {
            **{name: getattr(model, name) for name in ("name", "hub", "licence", "gated")},
            **{name: getattr(model, name) for name in ("parameters", "context")},
            "bf16_bytes": model.weight_bytes(2),
            "4bit_bytes": model.weight_bytes(2, model.in_four_bits),
            "comes_in": model.comes_in or None,
            "injected": self.injected,
            "cached_bytes": self.cached_bytes,
            "fits": self.fits_with is not None,
            "fits_with": self.fits_with,
        }


@app.command()
def models(device: Device = None, as_json: AsJson = False) -> None:
    """List the models with a short name for --model: what is cached, and what fits this machine.

    A model fits if there is room for its weights and 2 GiB more. Nothing is asked of the network.

    [bold]Example:[/bold]  sharedllm models
    """
    screen = Screen(silent=as_json)
    with screen.busy("looking at the cache"):
        from sharedllm.hf.loading import resolve_device, resolve_dtype
        from sharedllm.hf.room import memory_of

        place = resolve_device(device)
        dtype, memory = resolve_dtype(None, place), memory_of(place)
        found = _listed(place, dtype, memory)
    kind = str(dtype).removeprefix("torch.")
    if as_json:
        here = {"device": str(place), "dtype": kind, **dataclasses.asdict(memory)}
        typer.echo(json.dumps({**here, "models": [listed.to_dict() for listed in found]}))
        return
    from sharedllm.hf.models import gib

    wide = screen.width >= WIDE
    screen.show(_table(found, wide=wide))
    screen.say("")
    screen.say(
        f"{place}: {gib(memory.total)} of memory, {gib(memory.free)} free now; weights in {kind} "
        "unless --dtype or --quantize says otherwise."
    )
    screen.say(LEGEND + ("" if wide else " Hub names, licences: a wider terminal, or --json."))


def _listed(place: torch.device, dtype: torch.dtype, memory: Memory) -> list[Listed]:
    from sharedllm.hf.architectures import FAMILIES
    from sharedllm.hf.hub import cached
    from sharedllm.hf.models import MODELS

    there, cuda = cached(), place.type == "cuda"
    return [
        Listed(
            model=model,
            injected="KV" if model.kind in FAMILIES else "text",
            cached_bytes=there.get(model.hub),
            fits_with=model.way(memory.total, dtype.itemsize, cuda=cuda),
        )
        for model in MODELS
    ]


def _table(found: list[Listed], *, wide: bool) -> Table:
    """Build a table with a row for each model; narrow ones leave hub name and licence out."""
    from sharedllm.hf.models import GIB

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", no_wrap=True)
    if wide:
        table.add_column("hub name", no_wrap=True)
        table.add_column("licence", no_wrap=True)
    for heading in ("size", "window", "bf16", "4-bit"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("reads", "cached", "fits"):
        table.add_column(heading, no_wrap=True)
    for listed in found:
        model = listed.model
        sizes = [model.weight_bytes(2), model.weight_bytes(2, model.in_four_bits)]
        licence = model.licence + ("*" if model.gated else "")
        table.add_row(
            model.name,
            *((model.hub, licence) if wide else ()),
            f"{model.parameters / 1e9:.1f}B",
            f"{model.context >> 10}K",
            *(f"{size / GIB:.1f}" for size in sizes),
            listed.injected,
            "no" if listed.cached_bytes is None else "yes",
            FITS[listed.fits_with],
        )
    return table
