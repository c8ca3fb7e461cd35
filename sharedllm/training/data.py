"""The data of a configuration -> an endless, seeded stream of examples, mixed by weight."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from sharedllm.training.examples import Example
from sharedllm.training.questions import Questions
from sharedllm.training.streams import Texts
from sharedllm.training.train_config import DataConfig, Source, generator

CHARACTERS_A_TOKEN = 4


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
        """Draw the characters of a past, log-uniform between the bounds."""
        least, most = self._config.past_tokens
        ratio = (most / least) ** self._rng.random()
        return int(CHARACTERS_A_TOKEN * least * ratio)

    def _language_modelling(self) -> Iterator[Example]:
        running = CHARACTERS_A_TOKEN * self._config.running_tokens
        while True:
            text = self._texts.stretch(self._length() + running)
            yield Example(kind="lm", past=text[:-running], question="", answer=text[-running:])

    def _generated(self, source: Source) -> Iterator[Example]:
        make = generator(source.task)
        while True:
            yield make(self._rng, self._texts.stretch(self._length()))
