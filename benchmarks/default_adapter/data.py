"""The part of the training documents that version 1 of the default adapter saw.

    python -m benchmarks.default_adapter.data --data DATA --out SUBSET

Documents in a random but fixed order, each cut at 600,000 characters, up to so many characters a
file; questions are copied whole.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
import shutil
from pathlib import Path

CHARACTERS = {"books": 22e6, "docs": 14e6, "papers": 12e6, "code": 10e6}
LONGEST = 600_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/*.jsonl.xz")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rng = random.Random(0)
    (args.out / "train").mkdir(parents=True, exist_ok=True)
    for name, most in CHARACTERS.items():
        file = f"train/{name}.jsonl.xz"
        with lzma.open(args.data / file, "rt", encoding="utf-8") as lines:
            rows = list(lines)
        rng.shuffle(rows)
        characters = 0
        with lzma.open(args.out / file, "wt", encoding="utf-8", preset=4) as out:
            for line in rows:
                row = json.loads(line)
                row["text"] = row["text"][:LONGEST]
                out.write(json.dumps(row) + "\n")
                characters += len(row["text"])
                if characters > most:
                    break
        print(f"{file}: {characters:,} characters")
    shutil.copy(args.data / "train/qa.jsonl.xz", args.out / "train")


if __name__ == "__main__":
    main()
