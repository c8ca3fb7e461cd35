"""Files -> an endless, seeded stream of examples, mixed by weight."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from sharedllm.training.config import DataConfig, Source
from sharedllm.training.examples import Example
from sharedllm.training.questions import Questions
from sharedllm.training.rows import endless, shuffled
from sharedllm.training.tasks import MAKERS, WEIGHTS

HELD = 64  # documents held at once: what is drawn from together
AT_START = 4  # documents of each file that are read before the first example
CHARACTERS_A_TOKEN = 4


class Texts:
    """Stretches of real text from documents, of any length."""

    def __init__(self, paths: Sequence[Path], rng: random.Random) -> None:
        self._rng = rng
        self._streams = [shuffled(endless(path, rng), rng, AT_START) for path in paths]
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
            if len(self._held) > HELD:
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
        if source.task in ("qa", "summary"):
            questions = Questions(
                Path(source.path),
                source.skip,
                self._texts.stretch,
                self._length,
                CHARACTERS_A_TOKEN * self._config.past_tokens[1],
                self._rng,
            )
            return questions.reading() if source.task == "qa" else questions.summaries()
        return self._generated(source)

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

    def _generated(self, source: Source) -> Iterator[Example]:
        shares = source.kinds or WEIGHTS if source.task == "retrieval" else {source.task: 1.0}
        while True:
            (task,) = self._rng.choices(list(shares), list(shares.values()))
            yield MAKERS[task](self._rng, self._texts.stretch(self._length()))
