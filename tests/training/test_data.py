"""The mixture: seeded, quick to start, in the asked shares; real questions with right evidence."""

from __future__ import annotations

import itertools
import json
import lzma
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydantic", reason="needs the extra [train]")

from sharedllm.errors import ConfigError
from sharedllm.generation.prompt import ABSENT
from sharedllm.training import questions
from sharedllm.training.data import Mixture
from sharedllm.training.examples import Example
from sharedllm.training.streams import endless, shuffle
from sharedllm.training.train_config import DataConfig, Source
from tests.texts import STORY

CITIES = [f"{a}{b}ville" for a in ("Ar", "Bo", "Cel", "Dun", "Em") for b in "abcdefgh"]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    opener = lzma.open if path.suffix == ".xz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return str(path)


def qa_rows() -> list[dict[str, Any]]:
    """Two questions on each city, and a summary of it."""
    out = []
    for n, city in enumerate(CITIES):
        context = (
            f"{city} is a town of {n + 300} souls. Its mayor, Otto {city}son, breeds {n + 20} "
            f"geese near the old mill. Nobody in {city} has ever seen the sea."
        )
        for question, answer in (
            (f"How many souls live in the town of {city}?", str(n + 300)),
            (f"Who is the mayor that breeds geese at {city}?", f"Otto {city}son"),
            ("Summarize the text.", f"{city} is small."),
        ):
            row = {"source": "made", "context": context, "question": question, "answer": [answer]}
            out.append(row)
    return out


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    texts = [{"text": f"{number}. {STORY}" * 5} for number in range(20)]
    return {
        "texts": write(tmp_path / "texts.jsonl.xz", texts),
        "qa": write(tmp_path / "qa.jsonl", qa_rows()),
    }


def mixture(files: dict[str, str], seed: int = 0, **weights: float) -> Mixture:
    sources = tuple(
        Source(task=task, weight=weight, path=files["qa"] if task in ("qa", "summary") else "")
        for task, weight in weights.items()
    )
    config = DataConfig(
        documents=(files["texts"],), sources=sources, past_tokens=(100, 600), running_tokens=50
    )
    return Mixture(config, seed)


def take(stream: Mixture, n: int) -> list[Example]:
    return list(itertools.islice(stream, n))


def test_the_seed_makes_the_examples(files: dict[str, str]) -> None:
    weights = {"lm": 1.0, "planted": 1.0, "qa": 1.0, "summary": 1.0}
    first = take(mixture(files, 1, **weights), 60)
    assert first == take(mixture(files, 1, **weights), 60)
    others = take(mixture(files, 2, **weights), 60)
    own = {example.past for example in first if example.kind != "summary"}
    assert len(own & {example.past for example in others}) < 5  # the same short text is possible


def test_weights_are_kept(files: dict[str, str]) -> None:
    seen = Counter(e.kind for e in take(mixture(files, lm=1.0, summary=3.0), 400))
    assert seen.keys() == {"lm", "summary"}
    assert 0.65 < seen["summary"] / 400 < 0.85


def test_planted_statements_hold_the_answers(files: dict[str, str]) -> None:
    made = take(mixture(files, planted=1.0), 600)
    for example in made:
        if example.answer == ABSENT:
            assert (example.kind, example.evidence) == ("planted_absent", ())
            continue
        ((start, end),) = example.evidence
        assert example.answer in example.past[start:end]
        assert len(example.past) > 380
    assert 0.06 < sum(example.answer == ABSENT for example in made) / 600 < 0.14
    assert len({example.question for example in made}) > 590


def counted(rng: random.Random, filler: str) -> Example:
    """A generated task of a user's own."""
    return Example(kind="counted", past=filler, question="How long?", answer=str(len(filler)))


def test_a_task_of_ones_own_is_imported(files: dict[str, str]) -> None:
    made = take(mixture(files, **{f"{__name__}:counted": 1.0}), 5)
    assert {example.kind for example in made} == {"counted"}
    assert all(example.answer == str(len(example.past)) for example in made)


def test_lm_goes_on_where_its_past_ends(files: dict[str, str]) -> None:
    for example in take(mixture(files, lm=1.0), 20):
        assert (example.question, len(example.answer)) == ("", 200)
        assert 380 <= len(example.past) <= 2400


def test_evidence_holds_the_answers_of_real_questions(files: dict[str, str]) -> None:
    seen = Counter[str]()
    for example in take(mixture(files, qa=1.0), 600):
        if example.answer == ABSENT:
            (city,) = (city for city in CITIES if city in example.question)
            assert city not in example.past
            assert example.evidence == ()
            seen["hard"] += "Nobody in" in example.past
            seen["absent"] += 1
            continue
        asked = example.question.splitlines()[1:] or [example.question]
        answers = [line.split(". ")[-1] for line in example.answer.splitlines()]
        assert len(asked) == len(answers) == len(example.evidence)
        for (start, end), question, answer in zip(example.evidence, asked, answers, strict=True):
            assert answer in example.past[start:end]
            (city,) = (city for city in CITIES if city in question)
            assert city in example.past[start:end]
            assert "sea." not in example.past[start:end]  # the sentence, not the passage
        seen["several"] += len(asked) > 1
        seen["other passages"] += example.past.count("Nobody in") > 1
        seen["other text"] += "Halcyon" in example.past
    assert 0.06 < seen["absent"] / 600 < 0.14
    assert seen["hard"] > 20
    assert min(seen["several"], seen["other passages"], seen["other text"]) > 20


def test_summaries_are_told_apart(files: dict[str, str]) -> None:
    assert not any("Summarize" in example.question for example in take(mixture(files, qa=1), 200))
    alone = 0
    for example in take(mixture(files, summary=1), 60):
        ((start, end),) = example.evidence
        assert example.past[start:end].startswith(example.answer.split()[0])
        assert example.past[start:end].endswith("seen the sea.")
        alone += example.past == example.past[start:end]
        if example.past != example.past[start:end]:
            title = example.question.split("about ")[1].removesuffix(" only.")
            assert example.past[:start].endswith(f"== {title} ==\n")
    assert 10 < alone < 50


def row(**changes: Any) -> dict[str, Any]:
    given = {
        "context": "The mill burned down in 1911, and Ada Pell rebuilt it in 1913.",
        "question": "Who rebuilt the mill?",
        "answer": ["Ada Pell"],
    }
    return {**given, **changes}


def read(**changes: Any) -> questions.Question:
    return questions.read(row(**changes), Path("rows.jsonl"), random.Random(0))


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"answer": "Ada Pell"}, "Ada Pell"),
        ({"answer": ["the lady called Ada Pell", "Ada Pell", "Pell"]}, "Pell"),
        ({"answer": ["somebody", "ada pell"]}, "ada pell"),
        ({"answer": ["a builder", "her"]}, "a builder"),
        ({"answer": []}, ABSENT),
        ({"answer": ["UNANSWERABLE"]}, ABSENT),
        ({"answer": ["No answer."]}, ABSENT),
        ({"answer": ["B"], "options": ["Bo Lund", "Ada Pell"]}, "Ada Pell"),
    ],
)
def test_one_answer_is_chosen(changes: dict[str, Any], answer: str) -> None:
    assert read(**changes).answers[0] == answer


@pytest.mark.parametrize(
    "changes", [{"question": ""}, {"context": " "}, {"answer": None}, {"answer": [""]}]
)
def test_rows_that_lack_something_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"rows\.jsonl has a row"):
        read(**changes)


def test_options_are_shown() -> None:
    question = read(options=["Bo Lund", "Ada Pell", "Cy Orr"])
    lines = question.text.splitlines()
    assert lines[:2] == ["Who rebuilt the mill?", "Options:"]
    assert {line[4:] for line in lines[2:]} == {"Bo Lund", "Ada Pell", "Cy Orr"}
    assert [line[:3] for line in lines[2:]] == ["(A)", "(B)", "(C)"]


def test_the_occurrence_that_the_question_is_about_is_the_evidence() -> None:
    context = "In 1911 there was a fair. " + "Nothing is told of the rest. " * 30
    context += "The mill at the ford burned down in 1911. Then it rained."
    question = read(context=context, question="When did the mill burn down?", answer=["1911"])
    start, end = questions.evidence(question)
    assert context[start:end] == "The mill at the ford burned down in 1911."


def test_a_long_passage_is_cut_around_its_evidence(files: dict[str, str], tmp_path: Path) -> None:
    rows = []
    for n in range(100):
        context = "It rains and rains. " * n * 10 + f"Ada Pell {n} rebuilt it. " + "Dry. " * 2000
        rows.append(row(context=context, answer=[f"Ada Pell {n}"]))
    files = {**files, "qa": write(tmp_path / "long.jsonl", rows)}
    for example in take(mixture(files, qa=1.0), 50):
        if example.answer != ABSENT:
            ((start, end),) = example.evidence
            assert example.answer in example.past[start:end]
            assert len(example.past) < 5000


def test_sources_can_be_skipped(files: dict[str, str], tmp_path: Path) -> None:
    rows = qa_rows() + [{**one, "source": "bad: v2"} for one in qa_rows()]
    for one in rows[len(rows) // 2 :]:
        one["question"] = one["question"].replace("?", ", badly?")
    path = write(tmp_path / "both.jsonl", rows)
    source = Source(task="qa", weight=1, path=path, skip=("bad",))
    config = mixture(files, lm=1.0)._config.model_copy(update={"sources": (source,)})
    assert not any("badly" in e.question for e in take(Mixture(config, 0), 300))


def test_a_file_without_what_is_asked_for_is_refused(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharedllm.training.questions.PATIENCE", 100)
    files = {**files, "qa": write(tmp_path / "one.jsonl", [row()])}
    with pytest.raises(ConfigError, match="no usable summaries"):
        take(mixture(files, summary=1.0), 1)
    files = {**files, "qa": write(tmp_path / "none.jsonl", [])}
    with pytest.raises(ConfigError, match="no row"):
        take(mixture(files, qa=1.0), 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"task": "poems"},
        {"task": "qa"},
        {"task": "lm", "path": "x.jsonl"},
        {"task": "lm", "skip": ["x"]},
        {"task": "no_such_module:poems"},
        {"task": "sharedllm.training.planted:poems"},
    ],
)
def test_a_wrong_source_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"task|path"):
        Source.model_validate({"weight": 1.0, **wrong})


def test_streams_do_not_read_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    write(path, [{"n": n} for n in range(5000)])
    rng = random.Random(0)
    read_rows = itertools.count()
    counted = (one for one in endless(path, rng) if next(read_rows) >= 0)
    first = next(shuffle(counted, rng, 16))
    assert next(read_rows) == 17
    assert 0 <= first["n"] < 5000


def test_it_is_quick(files: dict[str, str]) -> None:
    """A worker must not wait for data: 60 examples a second, of 512 to 8,192 tokens."""
    weights = {"lm": 0.12, "planted": 0.42, "qa": 0.38, "summary": 0.08}
    config = mixture(files, **weights)._config.model_copy(update={"past_tokens": (512, 8192)})
    stream = iter(Mixture(config, 0))
    next(stream)
    start = time.process_time()
    for _ in range(120):
        next(stream)
    assert time.process_time() - start < 2
