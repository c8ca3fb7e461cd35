"""The mixture of packed training: the share of each kind of case, and their endless stream."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator
from pathlib import Path

from benchmarks.default_adapter.cases import Case, Source, make_case
from benchmarks.default_adapter.data import VOCABULARY
from benchmarks.default_adapter.questions import Bank, Questions
from benchmarks.default_adapter.records import make_record
from benchmarks.default_adapter.tasks import MAKERS
from benchmarks.default_adapter.tasks.names import use_words
from sharedllm.training.data import CHARACTERS_A_TOKEN, Mixture
from sharedllm.training.streams import Texts
from sharedllm.training.train_config import DataConfig
from sharedllm.training.train_config import Source as Task

WEIGHTS = {
    "lm": 0.05,
    "retrieval": 0.36,
    "short": 0.04,
    "qa": 0.15,
    "summary": 0.03,
    "kinds": 0.28,
    "records": 0.07,
    "polite": 0.01,
    "versions": 0.01,
}
KINDS = {
    "yesno": 0.19,
    "extractive": 0.15,
    "followup": 0.13,
    "unanswerable": 0.16,
    "table": 0.09,
    "number": 0.05,
    "list": 0.07,
    "multihop": 0.05,
    "date": 0.04,
    "code": 0.04,
    "contract": 0.03,
}
NEEDLES = {
    "single": 0.13,
    "multi_key": 0.18,
    "multi_value": 0.14,
    "multi_query": 0.13,
    "tracking": 0.09,
    "two_hop": 0.12,
    "lists": 0.09,
    "quotation": 0.05,
    "words": 0.01,
    "absent": 0.08,
}
# books twice: prose is what is mostly read
DOCUMENTS = ("books", "books", "docs", "papers", "code")
POLITE = (
    ("Thank you!", "You're welcome!"),
    ("Thanks, that helps.", "You're welcome! Let me know if you have another question."),
    ("Great, thanks.", "You're welcome!"),
    ("Hello!", "Hello! How can I help you?"),
    ("Hi there", "Hello! How can I help you?"),
    ("Good morning", "Good morning! How can I help you?"),
    ("That is all for now.", "All right. Let me know if you have another question."),
    ("Goodbye", "Goodbye!"),
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Lengths in tokens.

    Attributes
    ----------
    past : least and most, log-uniform
    needles : the same for needles, longer, so that other text fills the budget beside them
    running : text that continues a past, for language modelling
    """

    past: tuple[int, int] = (384, 8192)
    needles: tuple[int, int] = (1024, 8192)
    running: int = 512


class Cases:
    """The stream of cases.

    Parameters
    ----------
    folder : with books, docs, papers, code and qa (.jsonl) and a vocabulary, as
        ``data.py --packed`` writes them
    bank : rows of questions by kind
    seed : the same seed gives the same cases; workers take different ones
    """

    def __init__(self, folder: Path, bank: Bank, seed: int, lengths: Lengths | None = None) -> None:
        use_words(json.loads((folder / VOCABULARY).read_text(encoding="utf-8")))
        self._rng = random.Random(seed)
        self._lengths = lengths or Lengths()
        files = tuple(str(folder / f"{name}.jsonl") for name in DOCUMENTS)
        qa = str(folder / "qa.jsonl")
        self._texts = Texts([Path(file) for file in files], self._rng)

        def own(task: str, path: str = "") -> Iterator[Case]:
            """Yield cases of one of the library's tasks."""
            config = DataConfig(
                documents=files,
                sources=(Task(task=task, weight=1, path=path),),
                past_tokens=self._lengths.past,
                running_tokens=self._lengths.running,
            )
            return map(make_case, Mixture(config, self._rng.randrange(2**31)))

        self._makers: dict[str, Iterator[Case]] = {
            "lm": own("lm"),
            "retrieval": self._needles(),
            "short": self._short(),
            "qa": self._questions(own("qa", qa)),
            "summary": own("summary", qa),
            "kinds": iter(Questions(bank, KINDS, self._texts.stretch, self._length, self._rng)),
            "records": self._records(),
            "polite": self._polite(),
            "versions": self._versions(),
        }

    def __iter__(self) -> Iterator[Case]:
        names, weights = list(WEIGHTS), list(WEIGHTS.values())
        while True:
            case = next(self._makers[self._rng.choices(names, weights)[0]])
            if case.answer.strip() and all(source.text.strip() for source in case.sources):
                yield case

    def _length(self) -> int:
        """Draw the characters of a past."""
        return self._between(self._lengths.past)

    def _between(self, bounds: tuple[int, int]) -> int:
        least, most = bounds
        return int(CHARACTERS_A_TOKEN * least * (most / least) ** self._rng.random())

    def _needles(self) -> Iterator[Case]:
        """Yield the generated tasks, in the shares of NEEDLES."""
        while True:
            (task,) = self._rng.choices(list(NEEDLES), list(NEEDLES.values()))
            filler = self._texts.stretch(self._between(self._lengths.needles))
            yield make_case(MAKERS[task](self._rng, filler))

    def _questions(self, cases: Iterator[Case]) -> Iterator[Case]:
        """Yield `cases`, some as the same question asked again."""
        for case in cases:
            draw = self._rng.random()
            sentences = len(case.answer) > 120
            if draw < 0.06 and len(case.answer) < 200:
                history = ((case.question, case.answer),)
                yield dataclasses.replace(case, kind="again", history=history)
            else:
                yield dataclasses.replace(case, sentences=sentences)

    def _short(self) -> Iterator[Case]:
        """Yield documents of one sentence to about five: generated facts in hardly any text."""
        names = ("single", "multi_key", "lists", "two_hop", "absent")
        while True:
            filler = self._texts.stretch(self._rng.choice((8, 60, 150, 300, 500)))
            maker = MAKERS[self._rng.choices(names, (0.5, 0.2, 0.1, 0.1, 0.1))[0]]
            yield dataclasses.replace(make_case(maker(self._rng, filler)), kind="short")

    def _records(self) -> Iterator[Case]:
        while True:
            yield make_record(self._rng, self._texts.stretch, self._length())

    def _polite(self) -> Iterator[Case]:
        """Yield turns that do not concern the documents."""
        for case in self._records():
            said, reply = self._rng.choice(POLITE)
            history = ((case.question, case.answer),) if self._rng.random() < 0.7 else ()
            sources = tuple(dataclasses.replace(source, evidence=()) for source in case.sources)
            yield Case(kind="polite", sources=sources, question=said, answer=reply, history=history)

    def _versions(self) -> Iterator[Case]:
        """Yield documents that disagree; the question names the year that it means."""
        while True:
            count = self._rng.randint(2, 5)
            years = self._rng.sample(range(2004, 2026), count)
            first = make_record(self._rng, self._texts.stretch, 600)
            what = self._rng.choice(("budget", "headcount", "price", "fee", "limit", "quota"))
            who = self._rng.choice(
                ("the library", "the plant", "the team", "the store", "the fund")
            )
            values = self._rng.sample(range(12, 9000), count)
            texts = [
                f"Report for {year}. In {year} the {what} of {who} was {value}. "
                + self._texts.stretch(self._rng.choice((80, 300, 900)))
                for year, value in zip(years, values, strict=True)
            ]
            at = self._rng.randrange(count)
            sources = [
                Source(
                    text=text,
                    title=f"report {year}",
                    evidence=((0, 90),) if n == at else (),
                )
                for n, (text, year) in enumerate(zip(texts, years, strict=True))
            ]
            if self._rng.random() < 0.4:
                sources.append(dataclasses.replace(first.sources[0], evidence=()))
            yield Case(
                kind="versions",
                sources=tuple(sources),
                question=f"What was the {what} of {who} in {years[at]}?",
                answer=str(values[at]),
            )
