"""The scope of 400 labelled questions, decided by their words: how many are right.

    python -m benchmarks.quality.whole_scope [--half 0]

The rule was written for half 0 of whole_questions.tsv; half 1 is what is reported. Each line of the
file: what should be read, what is asked for, the question.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.quality.halves import CHOOSE, REPORT, half_of
from sharedllm.evaluation.metrics import mean
from sharedllm.whole.scope import scope_of

QUESTIONS = Path(__file__).with_name("whole_questions.tsv")


def labelled(half: int | None = None) -> list[tuple[str, str, str]]:
    """(scope, kind, question) of the questions of `half`; None is all of them."""
    rows = [line.split("\t") for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    return [(s, k, q) for s, k, q in rows if half is None or half_of(q) == half]


def taken(question: str) -> str:
    return "whole" if scope_of(question).is_whole else "passages"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--half", type=int, choices=(CHOOSE, REPORT), default=REPORT)
    rows = labelled(parser.parse_args().half)
    for wanted in ("passages", "whole"):
        own = [(kind, question) for scope, kind, question in rows if scope == wanted]
        right = [taken(question) == wanted for _, question in own]
        found = mean([float(one) for one in right])
        print(f"{wanted}: {100 * found.value:.1f} ±{100 * (found.half or 0):.1f} % of {len(own)}")
        for (kind, question), fits in zip(own, right, strict=True):
            if not fits:
                print(f"  - {kind}: {question}")
    kinds = [(k, q) for s, k, q in rows if s == "whole" and taken(q) == s]
    same = sum(scope_of(question).kind == kind for kind, question in kinds)
    print(f"kind: {same} of {len(kinds)} of the questions about the whole")


if __name__ == "__main__":
    main()
