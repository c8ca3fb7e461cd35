"""Do search vectors computed in bfloat16 find the same leaves as float32's? (CPU only)

    python benchmarks/search_precision.py --out benchmarks/results/search_precision.json

Questions: sentences of the shipped book, every 30th. Prints the mean share of the eight best leaves
that both find, and how often all eight are the same.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np

from sharedllm import SharedLLM

BOOK = Path(__file__).parents[1] / "cookbooks/data/the_mayor_of_casterbridge.txt"
POLICIES = ("maxsim", "hybrid", "last_hidden")
TOP = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    llm = SharedLLM.from_pretrained(device="cpu", dtype="float32")
    if not llm.encoder.lower.search_in_bf16:
        raise SystemExit("this processor does not multiply bfloat16: there is nothing to compare")
    text = BOOK.read_text(encoding="utf-8")
    questions = [s.strip() for s in text.split(". ")[100:2000:30] if 30 < len(s) < 200]
    best: dict[bool, dict[str, list[set[int]]]] = {}
    for in_bf16 in (True, False):
        llm.encoder.lower.search_in_bf16 = in_bf16
        vars(llm.encoder.lower).pop("_centre", None)  # computed in the same precision
        document = llm.remember(text)
        leaves = document.forest.leaves
        best[in_bf16] = {
            policy: [
                set(np.argsort(-llm.score(q, document, policy=policy)[0][leaves])[:TOP].tolist())
                for q in questions
            ]
            for policy in POLICIES
        }
    found = {}
    for policy in POLICIES:
        pairs = zip(best[True][policy], best[False][policy], strict=True)
        shares = [len(a & b) / TOP for a, b in pairs]
        found[policy] = {"overlap": float(np.mean(shares)), "same": shares.count(1) / len(shares)}
        print(f"{policy}: overlap {found[policy]['overlap']:.3f}, same {found[policy]['same']:.3f}")
    if args.out:
        about = {"date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "n": len(questions)}
        args.out.write_text(json.dumps({**about, "results": found}, indent=1))


if __name__ == "__main__":
    main()
