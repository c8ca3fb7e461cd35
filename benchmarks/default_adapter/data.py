"""Training data of the default adapter, prepared from public sets.

    python -m benchmarks.default_adapter.data --data DATA --out SUBSET
    python -m benchmarks.default_adapter.data --data DATA --out PREPARED --packed

The first is for versions 1 to 3, the second for packed training: plain files, so that workers start
at once, and the questions by kind. Documents come in a random but fixed order, each cut, up to a
number of characters per file. Questions are cleaned: prompts that collections wrap around them are
taken off, and rows are left out that carry texts of their own, have very long answers, or need
arithmetic.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sharedllm.text.words import STOP
from sharedllm.training.questions import contains_answer, is_summary

LONGEST_ANSWER = 800  # characters, about 200 tokens
LONGEST_SUMMARY = 1600
LONGEST_QUESTION = 300  # longer ones carry texts of their own
LONG_ANSWERS = 0.25  # the share that is kept of answers of more than LONG characters
LONG = 250
VOCABULARY = "vocabulary.json"
WORD_COUNTS = (4, 1500)  # least and most occurrences of a word that tasks are filled with
# PolicyQA: the same few questions again and again, with fragments as answers. ROPES: situations
# inside the question. Quoref: the same questions in several prompts, of which one is kept.
SKIP = ("PolicyQA", "T0:ropes", *(f"T0:quoref_{x}" for x in ("A", "C", "G", "R", "W", "Found")))


@dataclass(frozen=True, kw_only=True, slots=True)
class Subset:
    """The size of a training set, and the form of its files.

    Attributes
    ----------
    characters : of each file of documents, at most
    longest : characters of one document, at most
    suffix : of the files; those of ".xz" are compressed
    skip : prefixes of `source` whose questions are left out
    copied : files of questions that are copied as they are
    """

    characters: Mapping[str, float]
    longest: int
    suffix: str
    skip: tuple[str, ...] = ()
    copied: tuple[str, ...] = ()


# the configurations of versions 1 to 3 have a `skip` of their own
STREAMED = Subset(
    characters={"books": 22e6, "docs": 14e6, "papers": 12e6, "code": 10e6},
    longest=600_000,
    suffix=".jsonl.xz",
)
PACKED = Subset(
    characters={"books": 12e6, "docs": 8e6, "papers": 6e6, "code": 6e6},
    longest=300_000,
    suffix=".jsonl",
    skip=SKIP,
    copied=("qa2",),
)
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
    """Return a row of questions as training reads it; None if it is of no use."""
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
    """Return True if the answer that training takes follows from the passage, and is short."""
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
    """Return True if the answer is a number that the passage does not name: arithmetic."""
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
    """Remove a repeated question in front, and a detached stop behind."""
    text = re.sub(
        r"^(?:What|How|Is|Who|When|Where|Are)\b[^.?\n]{5,150}\?\s+", "", str(answer).strip()
    )
    return re.sub(r"\s+\.$", "", text).strip()


def documents(data: Path, out: Path, subset: Subset) -> None:
    """Write a part of each file of documents."""
    rng = random.Random(0)
    for name, most in subset.characters.items():
        with _read(data, name) as lines:
            rows = list(lines)
        rng.shuffle(rows)
        characters = 0
        with _write(out, name, subset) as written:
            for line in rows:
                row = json.loads(line)
                row["text"] = row["text"][: subset.longest]
                written.write(json.dumps(row, ensure_ascii=False) + "\n")
                characters += len(row["text"])
                if characters > most:
                    break
        print(f"{name}: {characters:,} characters")


def questions(data: Path, out: Path, subset: Subset) -> None:
    """Write the questions that are of use, in the order in which they stood."""
    rng, kept, read = random.Random(0), 0, 0
    with _read(data, "qa") as lines, _write(out, "qa", subset) as written:
        for line in lines:
            read += 1
            given = json.loads(line)
            if given["source"].startswith(subset.skip):
                continue
            row = clean(given, rng)
            if row is not None:
                written.write(json.dumps(row, ensure_ascii=False) + "\n")
                kept += 1
    print(f"qa: {kept:,} of {read:,} questions")
    for name in subset.copied:
        with _read(data, name) as lines, _write(out, name, subset) as written:
            written.writelines(lines)


def write_vocabulary(out: Path, subset: Subset) -> None:
    """Write words and names of the documents, from which generated tasks are filled."""
    counts: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for name in subset.characters:
        with (out / f"train/{name}{subset.suffix}").open(encoding="utf-8") as lines:
            for line in lines:
                text = json.loads(line)["text"]
                counts.update(re.findall(r"(?<![\w'-])[a-z]{4,12}(?![\w'-])", text))
                names.update(re.findall(r"(?<=[a-z,] )[A-Z][a-z]{3,11}(?![\w'-])", text))
    least, most = WORD_COUNTS
    vocabulary = {
        "words": sorted(word for word, n in counts.items() if least <= n <= most),
        "names": sorted(n for n, c in names.items() if c >= least and counts[n.lower()] <= c),
    }
    (out / "train" / VOCABULARY).write_text(json.dumps(vocabulary), encoding="utf-8")
    print("vocabulary: " + ", ".join(f"{len(held):,} {key}" for key, held in vocabulary.items()))


def _read(data: Path, name: str) -> IO[str]:
    return lzma.open(data / f"train/{name}.jsonl.xz", "rt", encoding="utf-8")


def _write(out: Path, name: str, subset: Subset) -> IO[str]:
    path = out / f"train/{name}{subset.suffix}"
    if subset.suffix.endswith(".xz"):
        return lzma.open(path, "wt", encoding="utf-8", preset=4)
    return path.open("w", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/*.jsonl.xz")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--packed", action="store_true", help="for benchmarks.default_adapter.train"
    )
    args = parser.parse_args()
    subset = PACKED if args.packed else STREAMED
    (args.out / "train").mkdir(parents=True, exist_ok=True)
    documents(args.data, args.out, subset)
    questions(args.data, args.out, subset)
    if args.packed:
        write_vocabulary(args.out, subset)


if __name__ == "__main__":
    main()
