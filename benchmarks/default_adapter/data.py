"""The data that the default adapter was trained on, out of public sets.

    python -m benchmarks.default_adapter.data --data DATA --out SUBSET

Documents in a random but fixed order, each cut at 600,000 characters, up to so many characters a
file. Questions are cleaned: prompts that collections wrap around them are taken off, and rows are
left out that carry texts of their own, have very long answers, or need arithmetic.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
import re
from pathlib import Path
from typing import Any

from sharedllm.training.questions import STOP, contains_answer, is_summary

CHARACTERS = {"books": 22e6, "docs": 14e6, "papers": 12e6, "code": 10e6}
LONGEST = 600_000
LONGEST_ANSWER = 800  # characters, about 200 tokens
LONGEST_SUMMARY = 1600
LONGEST_QUESTION = 300  # longer ones carry texts of their own
LONG_ANSWERS = 0.25  # the share that is kept of answers of more than LONG characters
LONG = 250
# prompts that some collections wrap around their questions
_BEFORE = re.compile(
    r"^(?:(?:Extract|Given|Read|Use|Answer|Found|The following|What is the answer|I have a test|"
    r"I was|Question)[^\n]*?(?:\n.*?)?(?:the )?question:|Question:)\s*",
    re.DOTALL | re.IGNORECASE,
)
_AFTER = re.compile(
    r"\s*(?:\nAnswer:|, can you please find it ?\?|from the following article ?\?|"
    r"\nAnswer the above question[^\n]*)\s*$"
)


def clean(row: dict[str, Any], rng: random.Random) -> dict[str, Any] | None:
    """A row of questions as training reads it; None where it is of no use."""
    text, passage = _unwrapped(row["question"]), _unquoted(row["context"])
    answers = [_tidy(answer) for answer in row["answer"] if str(answer).strip()]
    if not (answers and passage and len(text.split()) > 1 and len(text) <= LONGEST_QUESTION):
        return None
    options = [str(option).strip() for option in row.get("options") or ()]
    if not options and row.get("short"):
        answers = [str(row["short"]).strip()]
    if not options and not _is_useful(answers, passage, rng, summary=is_summary(text)):
        return None
    out = {"source": row.get("source", ""), "context": passage, "question": text, "answer": answers}
    return out | ({"options": options} if options else {})


def _is_useful(answers: list[str], passage: str, rng: random.Random, *, summary: bool) -> bool:
    """Whether the answer that training takes can be read in the passage, and is not too long."""
    inside = [answer for answer in answers if contains_answer(answer, passage)]
    first = min(inside, key=len) if inside and not summary else answers[0]
    if len(first) > (LONGEST_SUMMARY if summary else LONGEST_ANSWER):
        return False
    if first.lower() in STOP - {"no"} or not re.search(r"[^\W_]", first):
        return False
    if not summary and len(first) > LONG and rng.random() >= LONG_ANSWERS:
        return False
    return not _is_computed(first, passage)


def _is_computed(answer: str, passage: str) -> bool:
    """Whether the answer is a number that the passage does not name: arithmetic, not reading."""
    if len(answer) > 40 or contains_answer(answer, passage):
        return False
    number = re.search(r"\d[\d.,]*", answer)
    return number is not None and number.group().rstrip(".,") not in passage


def _unwrapped(question: str) -> str:
    text = _BEFORE.sub("", question.strip())
    text = _AFTER.sub("", text).strip().strip('"').strip()
    text = text.replace("What is (are)", "What is").replace("(are)", "")
    text = re.sub(r"\s+([?.,!])", r"\1", text)
    return re.sub(r"\?{2,}$", "?", re.sub(r" ('s|n't)\b", r"\1", text))


def _unquoted(context: str) -> str:
    text = context.strip()
    if text.startswith('"') and text.endswith(('"', '",')):
        return text.rstrip(",")[1:-1].strip()
    return text


def _tidy(answer: Any) -> str:
    """Without a repeated question in front or a detached stop behind."""
    text = re.sub(
        r"^(?:What|How|Is|Who|When|Where|Are)\b[^.?\n]{5,150}\?\s+", "", str(answer).strip()
    )
    return re.sub(r"\s+\.$", "", text).strip()


def documents(data: Path, out: Path) -> None:
    """Write a part of each file of documents."""
    rng = random.Random(0)
    for name, most in CHARACTERS.items():
        file = f"train/{name}.jsonl.xz"
        with lzma.open(data / file, "rt", encoding="utf-8") as lines:
            rows = list(lines)
        rng.shuffle(rows)
        characters = 0
        with lzma.open(out / file, "wt", encoding="utf-8", preset=4) as written:
            for line in rows:
                row = json.loads(line)
                row["text"] = row["text"][:LONGEST]
                written.write(json.dumps(row) + "\n")
                characters += len(row["text"])
                if characters > most:
                    break
        print(f"{file}: {characters:,} characters")


def questions(data: Path, out: Path) -> None:
    """Write the questions that are of use, in the order in which they stood."""
    rng, kept, read = random.Random(0), 0, 0
    file = "train/qa.jsonl.xz"
    with (
        lzma.open(data / file, "rt", encoding="utf-8") as lines,
        lzma.open(out / file, "wt", encoding="utf-8", preset=4) as written,
    ):
        for line in lines:
            read += 1
            row = clean(json.loads(line), rng)
            if row is not None:
                written.write(json.dumps(row) + "\n")
                kept += 1
    print(f"{file}: {kept:,} of {read:,} questions")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/*.jsonl.xz")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    (args.out / "train").mkdir(parents=True, exist_ok=True)
    documents(args.data, args.out)
    questions(args.data, args.out)


if __name__ == "__main__":
    main()
