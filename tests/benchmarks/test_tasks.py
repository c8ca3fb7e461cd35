"""Generated tasks: every answer follows from its evidence, and what is absent is not there."""

from __future__ import annotations

import functools
import random
import re
from collections import Counter

import pytest

pytest.importorskip("pydantic", reason="needs the extra [train]")

from benchmarks.default_adapter.tasks import MAKERS, WEIGHTS
from benchmarks.default_adapter.tasks.kinds import DRAW
from benchmarks.default_adapter.tasks.relations import (
    FRAMES,
    MAGIC,
    RELATIONS,
    Relation,
    fact,
    question,
)
from sharedllm.generation.prompt import ABSENT
from sharedllm.training.examples import Past
from tests.texts import STORY

FILLER = STORY * 6
SEEDS = range(60)


def held(example) -> str:  # type: ignore[no-untyped-def]
    return " ".join(example.past[start:end] for start, end in example.evidence)


@pytest.mark.parametrize("task", sorted(set(MAKERS) - {"absent", "lists", "words", "quotation"}))
def test_every_answer_stands_in_its_evidence(task: str) -> None:
    for seed in SEEDS:
        example = MAKERS[task](random.Random(seed), FILLER)
        parts = example.answer.split(", ")
        assert all(part.lower() in held(example).lower() for part in parts), seed
        assert len(example.evidence) >= len(parts)
        assert max(end - start for start, end in example.evidence) < 250  # not the whole past


def test_tasks_depend_on_the_seed_alone() -> None:
    for task, make in MAKERS.items():
        assert make(random.Random(3), FILLER) == make(random.Random(3), FILLER)
        assert make(random.Random(3), FILLER) != make(random.Random(4), FILLER), task
    assert WEIGHTS.keys() == MAKERS.keys()


def test_passages_stand_where_they_are_said_to() -> None:
    for gap in ("\n", " "):
        past = Past("One. Two. Three. Four.", gap=gap)
        for where, passage in ((0.9, "LAST"), (0.0, "FIRST"), (0.5, "MIDDLE")):
            past.put(passage, where)
        text, spans = past.build()
        assert [text[a:b] for a, b in spans] == ["LAST", "FIRST", "MIDDLE"]
        assert re.sub(f"{gap}(LAST|FIRST|MIDDLE){gap}", "", text) == "One. Two. Three. Four."


def test_what_is_absent_is_not_told_but_things_like_it_are() -> None:
    same_subject = same_relation = 0
    for seed in range(100):
        example = MAKERS["absent"](random.Random(seed), FILLER)
        assert (example.answer, example.evidence) == (ABSENT, ())
        asked = [
            (relation, subject)
            for relation in (*RELATIONS, *MAGIC)
            for subject in subjects(relation, example.question)
        ]
        assert asked
        for relation, subject in asked:
            assert not is_told(relation, re.escape(subject), example.past), example.question
        same_subject += any(subject in example.past for _, subject in asked)
        same_relation += any(is_told(relation, ".+?", example.past) for relation, _ in asked)
    assert same_subject > 20
    assert same_relation > 70


def is_told(relation: Relation, subject: str, past: str) -> bool:
    """Return True if the text states the relation of a subject, which is given as a pattern."""
    templates = (*relation.says, *(frame.replace("{claim}", relation.claim) for frame in FRAMES))
    return any(re.search(_pattern(template, subject), past) for template in templates)


@functools.cache
def _pattern(template: str, subject: str) -> str:
    """A pattern of one statement."""
    parts = re.split(r"(\{[^}]+\})", template)
    fields = {"{s}": subject, "{a s}": rf"an? {subject}", "{A s}": rf"An? {subject}"}
    pattern = "".join(
        fields.get(part, "[^\n]+?") if part.startswith("{") else re.escape(part) for part in parts
    )
    return rf"(?im)(?:(?<=[\n ])|^){pattern}"


@functools.cache
def _forms(relation: Relation) -> re.Pattern[str]:
    """Every question for the relation, as one pattern."""
    asks = [re.escape(ask).replace(r"\{s\}", "(.+)") for ask in relation.asks]
    noun = re.escape(relation.noun).replace(r"\{s\}", "(.+)")
    return re.compile(
        "|".join([*asks, rf"(?:.*\s)?{noun}(?: mentioned in the provided text)?[.?]"])
    )


def subjects(relation: Relation, asked: str) -> list[str]:
    """Return what stands in a question at the place of the subject."""
    match = _forms(relation).fullmatch(asked)
    return [group for group in match.groups() if group] if match else []


def test_a_list_is_given_in_full_or_counted_or_one_of_it_named() -> None:
    seen = Counter[str]()
    for seed in range(150):
        example = MAKERS["lists"](random.Random(seed), FILLER)
        text = held(example)
        if example.answer.isdigit():
            several = len(example.evidence)
            separators = max(text.count(", "), text.count("\n- ") - 1)
            assert int(example.answer) == (several if several > 1 else separators + 1)
        else:
            assert all(part in text for part in example.answer.split(", "))
        seen["count" if example.answer.isdigit() else "named"] += 1
        seen["scattered" if len(example.evidence) > 1 else "at once"] += 1
    assert min(seen.values()) > 15


def test_the_most_frequent_words_are_the_most_frequent() -> None:
    for seed in SEEDS:
        example = MAKERS["words"](random.Random(seed), FILLER)
        counts = Counter(re.findall(r"[a-z][a-z-]+", example.past))
        answer = example.answer.split(", ")
        rest = max(n for word, n in counts.items() if word not in answer)
        assert min(counts[word] for word in answer) > rest


def test_quotations_are_verbatim() -> None:
    for seed in SEEDS:
        example = MAKERS["quotation"](random.Random(seed), FILLER)
        assert example.answer in held(example)
    code = "x = 1\n" * 200  # no sentence
    example = MAKERS["quotation"](random.Random(0), code)
    assert example.answer in held(example)


def test_variables_follow_each_other() -> None:
    for seed in SEEDS:
        example = MAKERS["tracking"](random.Random(seed), FILLER)
        values: dict[str, str] = {}
        for name, old, number in re.findall(r"VAR (\w+) = (?:VAR (\w+)|(\d+))", example.past):
            values[name] = number or values[old]
        (wanted,) = re.findall(r"\d{5}", example.question)
        equal = {name for name, value in values.items() if value == wanted}
        assert equal == set(example.answer.split(", "))
        assert equal != set(values)  # others hold something else


def test_relations_vary_and_their_forms_are_whole() -> None:
    assert len({relation.noun for relation in RELATIONS}) >= 40
    for relation in (*RELATIONS, *MAGIC):
        assert relation.subject in DRAW
        made = fact(random.Random(1), relation, set())
        assert made.value.lower() in made.statement.lower()
        assert made.subject.lower() in made.statement.lower()
        assert "{" not in made.statement
        for seed in range(20):
            asked = question(random.Random(seed), relation, made.subject)
            assert made.subject in asked
            assert made.value not in asked.replace(made.subject, "")


def test_the_wordings_of_ruler_are_among_them() -> None:
    questions, pasts = [], []
    for task in ("single", "multi_value", "multi_query"):
        for seed in range(80):
            example = MAKERS[task](random.Random(seed), FILLER)
            questions.append(example.question)
            pasts.append(example.past)
    asked, past = "\n".join(questions), "\n".join(pasts)
    assert re.search(r"One of the special magic numbers for [a-z]+-[a-z]+ is: \d{7}\.", past)
    assert re.search(
        r"What is the special magic number for \S+ mentioned in the provided text\?", asked
    )
    several = r"all the special magic \w+ for \S+, (\S+, )*and \S+ mentioned in the provided text\?"
    assert re.search(several, asked)
    assert "The grass is green. The sky is blue." in past
