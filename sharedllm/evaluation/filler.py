"""Files of the command line -> texts, and filler text of any length."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Sequence

from sharedllm.errors import ConfigError, DocumentError
from sharedllm.text.loaders import read_file, read_rows
from sharedllm.text.tokens import Tokenizer, tokenize

JSONL = (".jsonl", ".jsonl.xz", ".json.xz")
REPEATS = "the filler is shorter than the longest item and was repeated"
SPREAD = 1.2  # characters are drawn by an estimate times this, then cut to the tokens
SAMPLE = 20_000  # characters from which the characters per token are estimated
SENTENCE_END = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"'\u201d\u2019)]))\s+")


def read_texts(paths: Sequence[str], option: str) -> list[str]:
    """Return the texts of files: "text" of each row of .jsonl(.xz), any other file as a whole.

    Parameters
    ----------
    option : name of the command's option, for error messages
    """
    out: list[str] = []
    for path in paths:
        if not path.endswith(JSONL):
            out.append(read_file(path).text)
            continue
        found = [row["text"] for row in read_rows(path) if isinstance(row.get("text"), str)]
        if not found:
            raise DocumentError(
                f'no row of {path!r}, given with {option}, has a "text"; '
                'give texts as plain files or as .jsonl rows with "text"'
            )
        out += found
    return [text for text in out if text.strip()]


class Filler:
    """Unrelated text of any length, cut from given texts at sentence ends.

    Parameters
    ----------
    paths : files

    Attributes
    ----------
    texts : list of str
    repeats : bool
        True once a longer stretch was asked for than the texts give.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        self.texts = read_texts([os.fspath(path) for path in paths], "--filler")
        self.repeats = False

    def cut(self, tokens: int, tokenizer: Tokenizer, seed: int) -> str:
        """Cut at most `tokens` tokens, from the start of a random sentence to the end of one."""
        rng = random.Random(seed)
        order = rng.sample(range(len(self.texts)), len(self.texts))
        text = self.texts[order[0]]
        begin = SENTENCE_END.search(text, rng.randrange(len(text)))
        out = text[begin.end() if begin else 0 :]
        sample = (out if len(out) > SAMPLE else self.texts[order[0]])[:SAMPLE]
        wanted = int(SPREAD * tokens * len(sample) / len(tokenize(sample, tokenizer)))
        at = 0
        while len(out) < wanted:
            at += 1
            self.repeats |= at >= len(order)
            out += "\n\n" + self.texts[order[at % len(order)]]
        found = tokenize(out[: max(wanted, 1)], tokenizer)
        if len(found) < tokens:
            found = tokenize(out, tokenizer)
        end = found.characters(0, min(tokens, len(found)))[1]
        ends = [m.start() for m in SENTENCE_END.finditer(out, max(0, end - 1000), end)]
        return out[: ends[-1] if ends else end].rstrip()


def plant(text: str, passage: str, share: float, gap: str) -> str:
    """Insert `passage` into `text` at the first end of a sentence after a `share` of it.

    Parameters
    ----------
    gap : text on either side of the passage
    """
    found = SENTENCE_END.search(text, int(share * len(text)))
    place = found.end() if found else len(text)
    parts = (text[:place].rstrip(), passage.strip(), text[place:].lstrip())
    return gap.join(part for part in parts if part)


def require_filler(filler: Filler | None, what: str) -> Filler:
    """Return the filler; raise :class:`ConfigError` without one."""
    if filler is None:
        raise ConfigError(
            f"{what} needs real text around it: give files with --filler "
            '(plain text, or .jsonl with "text")'
        )
    return filler
