"""What past is worth by `sharedllm eval perplexity`: beside full attention, and from 6K to 126K.

    python benchmarks/perplexity_gain.py OUT --json benchmarks/results/perplexity_v3.json

OUT is the folder of `evaluate_default.sh`. Gain is the fall of the negative log-likelihood of the
running text against no past; its share of what full attention gains with 6K tokens of past (8K in
all) is taken for the base alone, and with the adapter that reads for us. Rise is the difference
between 126K and 6K tokens of past, nats a token, with half its 95 % interval over items.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEAR, FAR = 6 * 1024, 126 * 1024
MEASURES = {"last": "last 256 tokens", "running": "all 2,048 running tokens", "key": "key tokens"}
FULL = ("full attention", "full attention + adapter")
Row = dict[str, Any]
Cells = dict[tuple[str, int, int], dict[str, Row]]


def cells(file: Path) -> Cells:
    """Rows by method, budget (0: its own), tokens of past, and item."""
    out: Cells = defaultdict(dict)
    for row in json.loads(file.read_text(encoding="utf-8"))["rows"]:
        if "skipped" not in row:
            out[row["method"], row["budget"] or 0, row["length"]][row["item"]] = row
    return out


def a_token(found: Cells, method: str, budget: int, past: int, measure: str) -> NDArray[np.float64]:
    """Nats a token of each item, in the order of their names."""
    rows = [row for _, row in sorted(found[method, budget, past].items())]
    sums = np.array([row[f"nll_{measure}"] for row in rows])
    tokens = np.array([row[f"nll_{measure}_tokens"] for row in rows])
    return np.asarray(sums / np.maximum(tokens, 1))


def lines(kind: str, found: Cells) -> Iterator[Row]:
    """One a measure and budget."""
    for measure in MEASURES:
        none = a_token(found, "SharedLLM", 1024, 0, measure)
        full = [none - a_token(found, method, 0, NEAR, measure) for method in FULL]
        for budget in sorted({b for method, b, _ in found if method == "SharedLLM"}):
            near, far = (a_token(found, "SharedLLM", budget, p, measure) for p in (NEAR, FAR))
            rise = far - near
            yield {
                "kind": kind,
                "measure": MEASURES[measure],
                "budget": budget,
                "items": len(rise),
                "of_base": float((none - near).mean() / full[0].mean()),
                "of_adapter": float((none - near).mean() / full[1].mean()),
                "rise": float(rise.mean()),
                "within": float(1.96 * rise.std(ddof=1) / len(rise) ** 0.5),
            }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    files = sorted(args.out.glob("perplexity-*.json"))
    rows = [row for file in files for row in lines(file.stem.partition("-")[2], cells(file))]
    for row in rows:
        print(
            f"{row['kind']:7} {row['measure']:25} {row['budget']:6,} gain of the base's "
            f"{row['of_base']:.0%}, of the adapter's {row['of_adapter']:.0%}, "
            f"rise {row['rise']:+.4f} ± {row['within']:.4f} ({row['items']} items)"
        )
    args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
