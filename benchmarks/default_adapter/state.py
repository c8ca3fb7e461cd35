"""The state of a training over several runs: weights, Adam's moments, step and seed.

It is one safetensors file of bfloat16 tensors with its numbers as metadata. It can be cut into
pieces for places that take only small files, and joined again:

    python -m benchmarks.default_adapter.state cut state.safetensors PIECES
    python -m benchmarks.default_adapter.state join PIECES state.safetensors
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

PIECE = 14 * 2**20
LIST = "pieces.json"


def save(
    path: Path, parameters: nn.ParameterDict, optimizer: torch.optim.AdamW, notes: dict[str, Any]
) -> None:
    """Write weights, Adam's moments and `notes`; an interrupted write leaves the file as it was."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        tensors[f"weight/{name}"] = parameter.detach()
        for moment in ("exp_avg", "exp_avg_sq"):
            if parameter in optimizer.state:
                tensors[f"{moment}/{name}"] = optimizer.state[parameter][moment]
    half = {name: x.to("cpu", torch.bfloat16).contiguous() for name, x in tensors.items()}
    scratch = path.with_suffix(".tmp")
    save_file(half, scratch, metadata={"notes": json.dumps(notes)})
    scratch.replace(path)


def load(path: Path, parameters: nn.ParameterDict, optimizer: torch.optim.AdamW) -> dict[str, Any]:
    """Copy what :func:`save` wrote into `parameters` and `optimizer`; return its notes."""
    with safe_open(path, framework="pt") as file:
        notes: dict[str, Any] = json.loads(file.metadata()["notes"])
        names = set(file.keys())
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(file.get_tensor(f"weight/{name}"))
                if f"exp_avg/{name}" not in names:
                    continue
                optimizer.state[parameter] = {
                    "step": torch.tensor(float(notes["step"]), device=parameter.device),
                    "exp_avg": file.get_tensor(f"exp_avg/{name}").to(parameter),
                    "exp_avg_sq": file.get_tensor(f"exp_avg_sq/{name}").to(parameter),
                }
    return notes


def cut(path: Path, folder: Path) -> None:
    """Write `path` to `folder` in pieces, with a list of them and their digests."""
    folder.mkdir(parents=True, exist_ok=True)
    digests: dict[str, str] = {}
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            name = f"{path.name}.{len(digests):02}"
            (folder / name).write_bytes(piece)
            digests[name] = hashlib.sha256(piece).hexdigest()
    (folder / LIST).write_text(json.dumps(digests, indent=1), encoding="utf-8")


def join(folder: Path, path: Path) -> None:
    """Join the pieces in `folder`.

    Raises
    ------
    ValueError
        If one is missing or damaged.
    """
    digests = json.loads((folder / LIST).read_text(encoding="utf-8"))
    with path.open("wb") as out:
        for name, digest in digests.items():
            own = folder / name
            piece = own.read_bytes() if own.is_file() else b""
            if hashlib.sha256(piece).hexdigest() != digest:
                raise ValueError(f"{own} is missing or damaged; copy it again")
            out.write(piece)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("action", choices=("cut", "join"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    {"cut": cut, "join": join}[args.action](args.source, args.target)


if __name__ == "__main__":
    main()
