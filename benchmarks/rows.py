"""A row of results: printed as it comes, and added to a file of JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def keep(row: dict[str, Any], out: Path | None) -> None:
    """Print `row` and, where there is a file `out`, append it."""
    print(json.dumps(row), flush=True)
    if out is not None:
        with out.open("a", encoding="utf-8") as file:
            print(json.dumps(row), file=file)
