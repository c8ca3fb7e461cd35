"""Tasks in conversations: every answer is derived anew from its evidence."""

from __future__ import annotations

import functools
import itertools
import random
import re
from collections import Counter
from collections.abc import Iterator

import pytest

pytest.importorskip("pydantic", reason="needs the extra [train]")

from benchmarks.default_adapter import mixture
from benchmarks.default_adapter.cases import Case
from benchmarks.default_adapter.tasks import CASE_MAKERS, MAKERS
from benchmarks.default_adapter.tasks.comparing import HISTORIES, MEASURES, ORDER, Measure
from benchmarks.default_adapter.tasks.judging import AFFIRMED, CORRECTED, DENIED, TRUE, UNKNOWN
from benchmarks.default_adapter.tasks.relations import FRAMES, RELATIONS, Relation, capital, write
from benchmarks.default_adapter.tasks.telling import NEWEST, OLDEST
from benchmarks.default_adapter.tasks.turns import INSIST, INSIST_AGAINST, SMALL_TALK
from sharedllm.generation.prompt import ABSENT
from tests.benchmarks.test_tasks import is_told, subjects
from tests.texts import STORY

FILLER = STORY * 4
SEEDS = range(50)


def made(task: str, count: int = 50) -> Iterator[Case]:
    for seed in range(count):
        yield CASE_MAKERS[task](random.Random(seed), FILLER if seed % 3 else FILLER[:120])


def held(case: Case) -> list[str]:
    return [source.text[a:b] for source in case.sources for a, b in source.evidence]


def contains(texts: list[str], value: str) -> bool:
    return any(value.lower() in text.lower() for text in texts)


@pytest.mark.parametrize("task", sorted(CASE_MAKERS))
def test_evidence_covers_whole_statements_and_cases_depend_on_the_seed(task: str) -> None:
    counts = set()
    for case in made(task):
        assert case.kind == task
        assert case.question.strip() == case.question
        assert "{" not in case.question + case.answer + "".join(q + a for q, a in case.history)
        assert all(source.text.strip() for source in case.sources)
        counts.add(len(case.sources))
        for source in case.sources:
            for start, end in source.evidence:
                assert 0 <= start < end <= len(source.text)
                assert end - start < 320
                # nothing of a statement stands before or after its span
                assert source.text[start - 1 : start].strip() == ""
                assert source.text[end : end + 1].strip() == ""
    assert counts >= {1, 2} or task == "conflicting"
    make = CASE_MAKERS[task]
    assert make(random.Random(3), FILLER) == make(random.Random(3), FILLER)
    assert make(random.Random(3), FILLER) != make(random.Random(4), FILLER)


EXTRACTIVE = ("follow_up", "correction", "conflicting", "near_absent")


@pytest.mark.parametrize("task", EXTRACTIVE)
def test_no_question_tells_its_answer(task: str) -> None:
    for case in made(task, 150):
        if case.answer not in ("Yes", "No"):
            assert case.answer.lower() not in case.question.lower()


@functools.cache
def judging() -> list[tuple[Relation, re.Pattern[str]]]:
    """Every form of a question of yes or no, as a pattern."""
    fields = {"{s}": "(?P<s>.+)", "{v}": "(?P<v>.+)", "{a v}": "an? (?P<v>.+)"}
    out = []
    for of in RELATIONS:
        forms = [of.check, *(form.replace("{claim}", of.claim) for form in TRUE if "{c" in form)]
        forms += [form.replace("{Claim}", capital(of.claim)) for form in TRUE if "{C" in form]
        for form in forms:
            parts = re.split(r"(\{[^}]+\})", form)
            pattern = "".join(fields.get(part, re.escape(part)) for part in parts)
            out.append((of, re.compile(pattern, flags=re.IGNORECASE)))
    return out


def judgements(question: str) -> Iterator[tuple[Relation, str, str]]:
    """Yield every reading of a question of yes or no: relation, subject, value."""
    for of, pattern in judging():
        match = pattern.fullmatch(question)
        if match:
            yield of, match["s"], match["v"]


def states(of: Relation, subject: str, value: str, statement: str) -> bool:
    """Return True if the statement says this of the subject."""
    templates = [*of.says, *(frame.replace("{claim}", of.claim) for frame in FRAMES)]
    for form in (*AFFIRMED, *CORRECTED):
        right = form.replace("{right}", of.claim).replace("{Right}", capital(of.claim))
        templates.append(right.replace("{wrong}", "@").replace("{Wrong}", "@"))
    for template in templates:
        text = re.escape(write(template, subject, value, of.subject)).replace("@", ".+")
        if re.fullmatch(text, statement, flags=re.IGNORECASE):
            return True
    return False


def test_yes_and_no_are_right_and_equally_frequent() -> None:
    answers: Counter[str] = Counter()
    forms: Counter[str] = Counter()
    for case in made("yes_no", 300):
        answers[case.answer] += 1
        measured = ordered(case)
        if measured:
            first, second = measured
            assert case.answer == ("Yes" if first > second else "No")
            forms["compared"] += 1
            continue
        (statement,) = held(case)
        truth = any(states(*reading, statement) for reading in judgements(case.question))
        assert case.answer == ("Yes" if truth else "No"), (case.question, statement)
        # a word of the question alone does not give the answer away
        forms["denied" if re.search(r"not true|false|denied|invention", statement) else ""] += 1
    assert 0.45 < answers["Yes"] / answers.total() < 0.55
    assert answers.keys() == {"Yes", "No"}
    assert forms["compared"] > 35
    assert forms["denied"] > 10


def test_yes_and_no_do_not_follow_from_whether_the_value_is_in_the_text() -> None:
    named: Counter[str] = Counter()
    for case in made("yes_no", 300):
        text = " ".join(source.text for source in case.sources)
        readings = [value for _, _, value in judgements(case.question)]
        if case.answer == "No" and readings:
            named["named" if contains([text], min(readings, key=len)) else "unnamed"] += 1
    assert min(named["named"], named["unnamed"]) > 20


def number(text: str) -> int:
    return int(re.findall(r"\d[\d,]*", text)[-1].replace(",", ""))


def told_number(of: Measure, name: str, case: Case) -> int | None:
    """Return the number that the evidence gives to `name`."""
    for statement in held(case):
        for says in of.says:
            fields = {"{s}": re.escape(name), "{name}": re.escape(name), "{Name}": re.escape(name)}
            pattern = "".join(
                fields.get(part, r".*?(\d[\d,]*).*?") if part.startswith("{") else re.escape(part)
                for part in re.split(r"(\{[^}]+\})", says)
            )
            match = re.fullmatch(pattern, statement, flags=re.IGNORECASE)
            if match:
                return int(match.group(1).replace(",", ""))
    return None


def names_in(form: str, question: str) -> dict[str, str]:
    pattern = re.escape(form)
    for field in ("a", "b", "all"):
        pattern = pattern.replace(re.escape("{" + field + "}"), f"(?P<{field}>.+)", 1)
    match = re.fullmatch(pattern, question)
    return match.groupdict() if match else {}


def ordered(case: Case) -> tuple[int, int] | None:
    """Return the two numbers that a question of yes or no compares."""
    for of in MEASURES:
        names = names_in(of.check, case.question)
        if names:
            first, second = (told_number(of, names[key], case) for key in "ab")
            if first is not None and second is not None:
                return first, second
    return None


def right_answers(case: Case) -> set[str]:
    """Return the answers to a comparison under every reading of its question."""
    out = set()
    for of in MEASURES:
        forms = [(form, max) for form in (*of.more, of.most)]
        forms += [(form, min) for form in (*of.less, of.least)]
        for form, best in forms:
            found = names_in(form, case.question)
            last = " and " if " of {all}" in form else " or "
            several = re.split(f", |{last}", found["all"]) if "all" in found else []
            names = several or list(found.values())
            numbers = {one: told_number(of, one, case) for one in names}
            if numbers and None not in numbers.values():
                out.add(best(numbers, key=lambda one: numbers[one]))  # type: ignore[arg-type]
        found = names_in(of.difference, case.question)
        numbers = {one: told_number(of, one, case) for one in found.values()}
        if len(numbers) == 2 and None not in numbers.values():
            first, second = numbers.values()
            out.add(str(abs(first - second)))  # type: ignore[operator]
    return out


def test_comparisons_are_right() -> None:
    differences = 0
    for case in made("comparison", 150):
        answer = case.answer
        if re.fullmatch(r"\d+ \w+", answer):
            differences += 1
            answer = answer.split(" ")[0]
        assert right_answers(case) == {answer}, case.question
    assert 5 < differences < 50


def test_every_comparison_can_be_asked_both_ways() -> None:
    assert len(MEASURES) >= 20
    for of in MEASURES:
        assert all("{n}" in says for says in of.says)
        for form in (*of.more, *of.less, of.check, of.difference):
            assert form.count("{a}") == form.count("{b}") == 1, form
        assert "{all}" in of.most
        assert "{all}" in of.least


def test_intervals_are_right() -> None:
    kinds: Counter[str] = Counter()
    for case in made("interval", 150):
        dates = sorted(number_of_date(text) for text in held(case))
        assert len(dates) == 2
        if case.answer.endswith(("day", "days", "year", "years")):
            assert case.answer.split(" ")[0] == str(dates[1] - dates[0])
            kinds["gap"] += 1
            continue
        early, late = sorted(held(case), key=number_of_date)
        first = any(case.question.startswith(form.split("{")[0]) for form in ORDER["first"])
        last = any(case.question.startswith(form.split("{")[0]) for form in ORDER["last"])
        before = re.search(r"right before|preceded", case.question)
        kinds["order" if first or last else "next"] += 1
        statement = early if first or before else late
        assert event(case.answer, statement), (case.question, case.answer, statement)
    assert min(kinds.values()) > 20


def number_of_date(text: str) -> int:
    day = re.search(r"\b(\d{1,2}) [A-Z][a-z]+ \d{4}\b", text)
    (year,) = re.findall(r"\b\d{4}\b", text)
    return int(day.group(1)) if day else int(year)


def event(noun: str, statement: str) -> bool:
    """Return True if the statement dates the event that the noun names."""
    for of in HISTORIES:
        for form, *clauses in of.events:
            match = re.fullmatch(re.escape(form).replace(r"\{s\}", "(.+)"), noun)
            if match:
                texts = [one.format(s=match.group(1)) for one in (form, *clauses)]
                if contains([statement], texts[0]) or any(contains([statement], t) for t in texts):
                    return True
    return False


def test_histories_are_dated_by_years_or_days() -> None:
    assert len(HISTORIES) >= 10
    assert {of.days for of in HISTORIES} == {True, False}
    for of in HISTORIES:
        assert len(of.events) >= 4
        for entry in of.events:
            assert len(entry) >= 3
            assert all("{s}" in text for text in entry)


def test_follow_ups_are_answered_from_the_text_and_need_the_history() -> None:
    turns: Counter[int] = Counter()
    pronouns = 0
    for case in made("follow_up", 150):
        turns[len(case.history)] += 1
        assert contains(held(case), case.answer) or case.answer in ("Yes", "No")
        assert case.history
        assert case.question in case.sought
        assert case.history[0][0] in case.sought
        text = " ".join(source.text for source in case.sources)
        assert all(a in ("Yes", "No") or contains([text], a) for _, a in case.history)
        pronouns += bool(
            re.search(r"\b(he|him|his|she|her|it|its|they|them|their|there)\b", case.question)
        )
    assert turns.keys() == {1, 2, 3}
    assert 50 < pronouns < 130  # the others name another subject


def test_corrections_keep_to_the_text() -> None:
    kinds: Counter[str] = Counter()
    forms = [re.escape(form) for form in (*INSIST, *INSIST_AGAINST) if form != "{v}"]
    patterns = [form.replace(r"\{v\}", "(.+)").replace(r"\{wrong\}", ".+") for form in forms]
    for case in made("correction", 150):
        (statement,) = held(case)
        matches = (re.fullmatch(pattern, case.answer) for pattern in patterns)
        values = [match.group(1) for match in matches if match] or [case.answer]
        assert any(contains([statement], value) for value in values), case.answer
        before = case.history[0][1] if case.history else ""
        if before:
            kinds[
                "kept" if any(before.lower() in value.lower() for value in values) else "new"
            ] += 1
        else:
            kinds["at once"] += 1
    assert min(kinds.values()) > 5
    assert kinds["kept"] > 25


def test_the_named_one_of_conflicting_documents_is_believed() -> None:
    unrelated = 0
    for case in made("conflicting", 150):
        heading, statement = held(case)
        (source,) = (one for one in case.sources if one.evidence)
        assert source.text.startswith(heading)
        assert contains([statement], case.answer)
        year = re.findall(r"\d{4}", heading)[-1]
        shape = re.sub(
            r"\d+|January|February|March|April|May|June|July|August|September|"
            r"October|November|December",
            "",
            heading,
        )
        rivals = [
            re.findall(r"\d{4}", text.text.split("\n")[0])[-1]
            for text in case.sources
            if text.text.startswith(shape[:5]) and re.findall(r"\d{4}", text.text.split("\n")[0])
        ]
        assert len(rivals) > 1
        unrelated += len(rivals) < len(case.sources)
        if starts_or_ends(case.question, NEWEST):
            assert year == max(rivals)
        elif starts_or_ends(case.question, OLDEST):
            assert year == min(rivals)
        else:
            assert year in case.question
    assert unrelated > 70


def starts_or_ends(question: str, forms: tuple[str, ...]) -> bool:
    parts = itertools.chain.from_iterable(re.split(r"\{\w+\}", form) for form in forms)
    return any(part.strip() in question for part in parts if len(part.strip()) > 3)


def test_sentences_tell_all_that_is_asked() -> None:
    several = 0
    for case in made("sentence", 100):
        assert case.sentences
        assert case.answer.endswith(".")
        assert case.answer[0].isupper() or not case.answer[0].isalpha()
        several += len(held(case)) > 1
        for statement in held(case):
            words = set(re.findall(r"\w+", statement.lower()))
            words -= set(re.findall(r"\w+", case.question.lower()))
            assert words & set(re.findall(r"\w+", case.answer.lower())), case.answer
    assert 40 < several < 80


def test_what_is_nearly_told_is_not_told() -> None:
    near: Counter[str] = Counter()
    for case in made("near_absent", 150):
        assert (case.answer, held(case)) == (ABSENT, [])
        text = "\n".join(source.text for source in case.sources)
        for form in (*DENIED, *UNKNOWN):  # to say what is not so does not tell what is
            denied = re.sub(r"\\\{\w+\\\}", r"[^\\n]+?", re.escape(form))
            text, count = re.subn(denied, "", text)
            near["denied"] += count
        asked = [(of, subject) for of in RELATIONS for subject in subjects(of, case.question)]
        assert asked
        for of, subject in asked:
            assert not is_told(of, re.escape(subject), text), case.question
        near["subject"] += any(subject in text for _, subject in asked)
        near["relation"] += any(is_told(of, ".+?", text) for of, _ in asked)
    assert near["subject"] > 75
    assert near["relation"] > 75
    assert near["denied"] > 40


def test_small_talk_is_answered_in_kind_and_questions_after_it_from_the_text() -> None:
    seen: Counter[str] = Counter()
    replies = dict(SMALL_TALK)
    for case in made("off_topic", 100):
        if case.question in replies:
            assert case.answer == replies[case.question]
            assert not held(case)
            seen["after a question" if case.history else "alone"] += 1
        else:
            assert contains(held(case), case.answer)
            seen["back"] += 1
    assert min(seen.values()) > 15


def test_the_mixture_adds_up_and_abstains_seldom() -> None:
    for shares in (mixture.WEIGHTS, mixture.KINDS, mixture.NEEDLES, mixture.RELATED):
        assert sum(shares.values()) == pytest.approx(1)
    assert mixture.RELATED.keys() == CASE_MAKERS.keys()
    assert mixture.NEEDLES.keys() == MAKERS.keys()
    needles = mixture.WEIGHTS["retrieval"] * mixture.NEEDLES["absent"]
    near = mixture.WEIGHTS["relations"] * mixture.RELATED["near_absent"]
    assert 0.6 < near / needles < 1.5
    public = mixture.WEIGHTS["kinds"] * mixture.KINDS["unanswerable"]
    rest = 0.1 * (mixture.WEIGHTS["records"] + mixture.WEIGHTS["short"] + mixture.WEIGHTS["qa"])
    assert needles + near + public + rest < 0.095  # lessons without their evidence come on top
