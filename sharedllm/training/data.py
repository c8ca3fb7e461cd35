"""Files -> an endless, seeded stream of examples, mixed by weight."""

from __future__ import annotations

import json
import lzma
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sharedllm.errors import ConfigError
from sharedllm.training.config import DataConfig, Source
from sharedllm.training.examples import Example, Past
from sharedllm.training.tasks import MAKERS

BUFFER = 64  # documents held at once: what is drawn from together
CHARACTERS_A_TOKEN = 4


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a .jsonl or .jsonl.xz file, once."""
    opener = lzma.open if path.suffix == ".xz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ConfigError(f"{path}, line {number}: no JSON object ({error})") from error


def shuffled(path: Path, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Rows for ever, in a new order each time round, holding :data:`BUFFER` of them."""
    while True:
        held: list[dict[str, Any]] = []
        empty = True
        for row in rows(path):
            empty = False
            if len(held) < BUFFER:
                held.append(row)
                continue
            at = rng.randrange(BUFFER)
            held[at], row = row, held[at]
            yield row
        if empty:
            raise ConfigError(f"{path} holds no row")
        rng.shuffle(held)
        yield from held


class Texts:
    """Stretches of real text from documents, of any length."""

    def __init__(self, paths: Sequence[Path], rng: random.Random) -> None:
        self._rng = rng
        self._streams = [shuffled(path, rng) for path in paths]
        self._held: list[str] = []

    def stretch(self, characters: int) -> str:
        """So many characters from one document, or from several one after another."""
        out: list[str] = []
        while (missing := characters - sum(map(len, out))) > 0:
            text = self._next()
            start = self._rng.randrange(max(1, len(text) - missing))
            out.append(text[start : start + missing])
        return "\n\n".join(out)

    def _next(self) -> str:
        # A document is drawn from several times before it goes: books are long.
        if len(self._held) < 8 or self._rng.random() < 0.05:
            self._held.append(str(next(self._rng.choice(self._streams))["text"]))
            if len(self._held) > BUFFER:
                self._held.pop(self._rng.randrange(len(self._held)))
        return self._rng.choice(self._held)


class Mixture:
    """The stream of examples that a configuration describes.

    Parameters
    ----------
    config : DataConfig
    seed : int
        The same seed gives the same examples; workers take different ones.
    """

    def __init__(self, config: DataConfig, seed: int) -> None:
        self._config, self._rng = config, random.Random(seed)
        self._texts = Texts([Path(p) for p in config.documents], self._rng)
        self._makers = [self._maker(source) for source in config.sources]
        self._weights = [source.weight for source in config.sources]

    def __iter__(self) -> Iterator[Example]:
        while True:
            yield next(self._rng.choices(self._makers, self._weights)[0])

    def _maker(self, source: Source) -> Iterator[Example]:
        if source.task == "lm":
            return self._language_modelling()
        if source.task == "qa":
            return self._questions(Path(source.path))
        return self._generated(source.task)

    def _length(self) -> int:
        """Characters of past: log-uniform between the bounds, so that every scale is seen."""
        least, most = self._config.past_tokens
        ratio = (most / least) ** self._rng.random()
        return int(CHARACTERS_A_TOKEN * least * ratio)

    def _language_modelling(self) -> Iterator[Example]:
        running = CHARACTERS_A_TOKEN * self._config.running_tokens
        while True:
            text = self._texts.stretch(self._length() + running)
            yield Example(kind="lm", past=text[:-running], question="", answer=text[-running:])

    def _generated(self, task: str) -> Iterator[Example]:
        names = list(MAKERS) if task == "retrieval" else [task]
        while True:
            maker = MAKERS[self._rng.choice(names)]
            yield maker(self._rng, self._texts.stretch(self._length()))

    def _questions(self, path: Path) -> Iterator[Example]:
        """Reading comprehension: the passage anywhere among unrelated text."""
        for row in shuffled(path, self._rng):
            answers = [a for a in row["answer"] if a.strip()]
            if not answers or not row["question"].strip() or not row["context"].strip():
                continue
            passage, answer = row["context"].strip(), answers[0].strip()
            past = Past(self._texts.stretch(max(200, self._length() - len(passage))))
            past.put(passage, self._rng.random())
            text, ((start, end),) = past.build()
            at = passage.lower().find(answer.lower())
            # a short answer that stands in a long passage is found there; else all of it counts
            inside = at >= 0 and len(answer) < 200
            span = (start + at, start + at + len(answer)) if inside else (start, end)
            question = row["question"].strip()
            yield Example(kind="qa", past=text, question=question, answer=answer, evidence=(span,))
