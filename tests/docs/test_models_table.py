"""The table of short names in the documents is that of the code."""

from __future__ import annotations

from sharedllm.hf.architectures import FAMILIES
from sharedllm.hf.models import GIB, MODELS, KnownModel
from tests.notebooks.running import COOKBOOKS

PAGE = COOKBOOKS.parent / "docs" / "howto" / "own-model.md"


def row(model: KnownModel) -> str:
    sizes = (model.weight_bytes(2), model.weight_bytes(2, model.in_four_bits))
    cells = (
        f"`{model.name}`",
        f"{model.hub}{' (gated)' if model.gated else ''}",
        model.licence,
        f"{model.parameters / 1e9:.1f}B",
        f"{model.context:,}",
        *(f"{size / GIB:.1f}" for size in sizes),
        "KV" if model.kind in FAMILIES else "text",
    )
    return f"| {' | '.join(cells)} |"


def table() -> str:
    head = "| name | on the hub | licence | weights | window | GiB in bf16 | in 4 bits | reads |"
    return "\n".join([head, "|---|---|---|---|---|---|---|---|", *map(row, MODELS)])


def test_the_page_has_the_table_of_the_code() -> None:
    assert table() in PAGE.read_text(encoding="utf-8"), f"put this there:\n{table()}"
