"""The scope of 400 labelled questions, decided by their words: how many are right.

    python -m benchmarks.quality.whole_scope [--half 0]
    python -m benchmarks.quality.whole_scope --data DEV_FOLDER

The rule was written for half 0 of whole_questions.tsv; half 1 is what is reported. Each line of the
file: what should be read, what is asked for, the question.

With --data: whether search finds a place that stands out, as a sign of a question about the whole.
Texts are 32,000 characters of joined contexts of DEV; they are asked their own questions, those of
another text, and questions about the whole. The threshold is the one below which 5 % of the
passages questions of half 0 lie.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np

from benchmarks.quality.halves import CHOOSE, REPORT, half_of
from benchmarks.quality.items import read_jsonl
from sharedllm import SharedLLM
from sharedllm.evaluation.metrics import mean
from sharedllm.whole.scope import scope_of

QUESTIONS = Path(__file__).with_name("whole_questions.tsv")
ABOUT_WHOLE = ("CRD3", "ScisummNet", "QMSum", "SciTLDR", "T0:")  # or with a context of its own
TEXTS, SIZE, LONGEST = 8, 32_000, 6_000  # texts of a half; their characters; those of a context
OWN, ELSEWHERE, WHOLE = 30, 15, 24  # questions of a text
SHARE = 5  # % of passages questions that may lie below a threshold


def labelled(half: int | None = None) -> list[tuple[str, str, str]]:
    """(scope, kind, question) of the questions of `half`; None is all of them."""
    rows = [line.split("\t") for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    return [(s, k, q) for s, k, q in rows if half is None or half_of(q) == half]


def taken(question: str) -> str:
    return "whole" if scope_of(question).is_whole else "passages"


def signs(llm: SharedLLM, data: Path, half: int) -> dict[str, list[tuple[float, float]]]:
    """(best score, its lead over the fifth next) of each question of `half`, by its kind."""
    rng, contexts = random.Random(half), dict[str, list[str]]()
    for row in read_jsonl(data / "qa.jsonl.xz"):
        context = row["context"]
        own = not row["source"].startswith(ABOUT_WHOLE) and len(context) < LONGEST
        if own and half_of(context) == half:
            contexts.setdefault(context, []).append(row["question"])
    left = sorted(contexts)
    rng.shuffle(left)
    whole = [question for scope, _, question in labelled(half) if scope == "whole"]
    texts = []
    for _ in range(TEXTS):
        own = []
        while left and sum(map(len, own)) < SIZE:
            own.append(left.pop())
        asked = [rng.choice(contexts[one]) for one in own]
        texts.append((llm.remember("\n\n".join(own)), asked))
    out: dict[str, list[tuple[float, float]]] = {"passages": [], "elsewhere": [], "whole": []}
    for at, (document, asked) in enumerate(texts):
        other = texts[(at + 1) % TEXTS][1][:ELSEWHERE]
        chosen = {"passages": asked[:OWN], "elsewhere": other, "whole": rng.sample(whole, WHOLE)}
        for kind, questions in chosen.items():
            for question in questions:
                found = llm.score(question, document)[0][document.forest.leaves]
                best = np.sort(found)[::-1]
                out[kind].append((float(best[0]), float(best[0] - best[5])))
    return out


def stands_out(data: Path) -> None:
    """Print how many questions of each kind a threshold takes for the whole."""
    llm = SharedLLM.from_pretrained()
    halves = {half: signs(llm, data, half) for half in (CHOOSE, REPORT)}
    for at, name in enumerate(("best score", "lead over the fifth next")):
        limit = float(np.percentile([one[at] for one in halves[CHOOSE]["passages"]], SHARE))
        for half, kinds in halves.items():
            below = {
                kind: mean([float(one[at] < limit) for one in own]) for kind, own in kinds.items()
            }
            said = ", ".join(
                f"{kind} {100 * found.value:.1f} ±{100 * (found.half or 0):.1f} % of "
                f"{len(kinds[kind])}"
                for kind, found in below.items()
            )
            print(f"half {half}, {name} below {limit:.2f}: {said}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--half", type=int, choices=(CHOOSE, REPORT), default=REPORT)
    parser.add_argument("--data", type=Path)
    args = parser.parse_args()
    if args.data is not None:
        stands_out(args.data)
        return
    rows = labelled(args.half)
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
