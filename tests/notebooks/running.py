"""Runs the notebooks of cookbooks/, each in a kernel of its own.

``python -m tests.notebooks.running [NOTEBOOK...]`` runs them and keeps their outputs in the files.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

COOKBOOKS = Path(__file__).parents[2] / "cookbooks"
SECONDS = 280  # for a whole notebook; on two free cores each takes less than 180
LIMIT = 200 * 1024  # bytes of a notebook with its outputs
PLACES = re.compile(r"(/(tmp|home|root|work|usr|opt|var|Users|private)/|[A-Z]:\\\\)[\w.-]")


def notebooks() -> list[Path]:
    return sorted(COOKBOOKS.glob("*.ipynb"))


def execute(path: Path, *, seconds: float = SECONDS) -> nbformat.NotebookNode:
    """The notebook with what its cells give now.

    Raises
    ------
    CellExecutionError
        With the traceback of the first cell that fails.
    TimeoutError
        If the whole of it takes longer than `seconds`.
    """
    book = nbformat.read(path, as_version=4)
    book.metadata["kernelspec"] = {"name": "python3", "language": "python"}
    where = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(
        book, resources=where, kernel_name="python3", record_timing=False, coalesce_streams=True
    )
    asyncio.run(asyncio.wait_for(client.async_execute(), seconds))
    return book


def tidy(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without what differs from run to run or names a machine."""
    named = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book.metadata = nbformat.from_dict({"kernelspec": named, "language_info": {"name": "python"}})
    for number, cell in enumerate(book.cells, start=1):
        cell["id"] = f"cell-{number}"
        cell["metadata"] = nbformat.from_dict({})
        if "outputs" in cell:
            cell["outputs"] = [output for output in cell.outputs if not _noise(output)]
        for output in cell.get("outputs", ()):
            output.get("metadata", {}).clear()
            if "image/png" in output.get("data", {}):
                output.data["text/plain"] = "<Figure>"  # else it has an address in it
                output.data["image/png"] = _smaller(output.data["image/png"])
    return book


def _smaller(png: str) -> str:
    """A drawing in 64 colours, which is half of its bytes."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        image.convert("RGB").quantize(64).save(out, format="png", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def _noise(output: nbformat.NotebookNode) -> bool:
    """Whether it says that no progress bars can be drawn, which nobody asked for."""
    return output.get("name") == "stderr" and "IProgress not found" in output.text


def places(book: nbformat.NotebookNode) -> list[str]:
    """Paths of a machine in the outputs."""
    found: list[str] = []
    for cell in book.cells:
        for output in cell.get("outputs", ()):
            shown = [output.get("text", ""), *output.get("data", {}).values()]
            found += [match.group() for text in shown for match in PLACES.finditer(str(text))]
    return found


def main(names: list[str]) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder  # what the notebooks keep there is theirs alone
        for path in [Path(name) for name in names] or notebooks():
            sys.stdout.write(f"{path.name}\n")
            nbformat.write(tidy(execute(path)), path)


if __name__ == "__main__":
    main(sys.argv[1:])
