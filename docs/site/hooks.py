"""Puts CONTRIBUTING.md and the notebooks into the site, and mends links that lead out of docs/."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
OUT = re.compile(  # to a notebook or CONTRIBUTING.md
    r"(?<=\]\()(\.\./)+(?P<target>cookbooks[^)#\s]*|CONTRIBUTING\.md)"
)
FILE = re.compile(  # to a file that no page shows
    r"\[(?P<words>[^\]]+)\]\((\.\./)+(?P<target>(benchmarks|sharedllm|tests|cookbooks/data)[^)]*)\)"
)
_outputs: dict[str, str] = {}


def on_files(files: Files, config: Any) -> Files:
    """Add one page for CONTRIBUTING.md and one for each notebook."""
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "contributing.md", content=contributing))
    for path in sorted((ROOT / "cookbooks").glob("*.ipynb")):
        page = File.generated(config, f"notebooks/{path.stem}.md", content=_page(path))
        files.append(page)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links out of docs/ to a notebook's page, or show them as the names of files."""
    if page.file.src_uri.startswith("notebooks/"):
        return markdown
    up = "../" * page.file.src_uri.count("/")
    named = FILE.sub(lambda m: f"{m['words']} (`{m['target']}`)", markdown)
    return OUT.sub(lambda m: up + _place(m["target"]), named)


def on_page_content(content: str, **_: Any) -> str:
    """Put outputs where their cells left a mark."""
    return re.sub(r'<div id="(output-[\w-]+)"></div>', lambda m: _outputs[m[1]], content)


def _place(target: str) -> str:
    name = Path(target)
    if name.name == "CONTRIBUTING.md":
        return "contributing.md"
    return f"notebooks/{name.stem}.md" if name.suffix == ".ipynb" else "notebooks.md"


def _page(path: Path) -> str:
    """A notebook as Markdown, with marks in the place of its outputs."""
    parts = []
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
        if cell.cell_type == "markdown":
            parts.append(_linked(cell.source))
            continue
        parts.append(f"```python\n{cell.source}\n```")
        shown = "".join(map(_shown, cell.outputs))
        if shown:
            name = f"output-{path.stem}-{number}"
            _outputs[name] = f'<div class="output">{shown}</div>'
            parts.append(f'<div id="{name}"></div>')
    return "\n\n".join(parts)


def _linked(source: str) -> str:
    """A cell of text whose links lead to pages: of other notebooks, and of docs/."""
    beside = re.sub(r"\]\((\d\d_\w+)\.ipynb", r"](\1.md", source)
    return beside.replace("](../docs/", "](../")


def _shown(output: Any) -> str:
    data = output.get("data", {})
    if "text/html" in data:
        return str(data["text/html"])
    if "image/png" in data:
        return f'<img alt="figure" src="data:image/png;base64,{data["image/png"].strip()}">'
    text = output.get("text") or data.get("text/plain", "")
    drawn = ' class="drawn"' if "\u2500" in text else ""  # a table's lines must not be broken
    return f"<pre{drawn}>{html.escape(text)}</pre>"
