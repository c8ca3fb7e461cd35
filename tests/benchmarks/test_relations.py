"""The relations are whole, grammatical, reworded, and not those of the held-out evaluation."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from benchmarks.default_adapter.tasks.kinds import DRAW, LISTED, article
from benchmarks.default_adapter.tasks.phrasing import called, joined, pronounised
from benchmarks.default_adapter.tasks.relations import (
    FACTS,
    RELATIONS,
    THEMES,
    Relation,
    bare_question,
    fact,
    pronouns,
    question,
    read_relations,
    write,
)
from benchmarks.quality import items

FIELD = re.compile(r"\{[^}]*\}")
KNOWN = {"{s}", "{v}", "{a v}", "{A v}", "{a s}", "{A s}"}
OF_PERSONS = {"{he}", "{him}", "{his}", "{himself}", "{He}", "{His}"}
BASIC = ("people_basics", "things_basics")  # short ones; the others have at least five statements
RICH = [of for name in THEMES if name not in BASIC for of in read_relations(FACTS / f"{name}.toml")]


def fields(template: str) -> list[str]:
    return [field[-2] for field in FIELD.findall(template) if field in KNOWN]


def name(of: Relation) -> str:
    return f"{of.subject}: {of.noun}"


def test_every_file_of_relations_is_read() -> None:
    others = {"measures", "histories", "values"}
    assert {path.stem for path in FACTS.glob("*.toml")} == {*THEMES, *others}


def test_there_are_many_relations_each_in_many_words() -> None:
    assert len(RICH) >= 200
    for of in RICH:
        assert len(of.says) >= 5, name(of)
        assert len(of.asks) >= 3, name(of)
    assert len({of.subject for of in RICH}) >= 20


def test_statements_name_subject_and_value_and_questions_the_subject_only() -> None:
    for of in RELATIONS:
        assert {of.subject, of.value} <= DRAW.keys(), name(of)
        for template in (*of.says, of.claim, of.check):
            assert {"s", "v"} == set(fields(template)), template
            allowed = KNOWN | OF_PERSONS if of.subject == "person" else KNOWN
            assert set(FIELD.findall(template)) <= allowed, template
        for template in (*of.asks, of.noun):
            assert FIELD.findall(template) == ["{s}"] * fields(template).count("s"), template
            assert "s" in fields(template)
        assert of.check.endswith("?")
        assert not of.claim.endswith(".")
        assert all(ask.endswith("?") for ask in of.asks), name(of)


def test_nothing_is_written_twice() -> None:
    says = Counter((of.subject, template) for of in RELATIONS for template in of.says)
    assert says.most_common(1)[0][1] == 1
    # a question that two relations of one kind of subject share could not be answered
    asks = Counter((of.subject, ask) for of in RELATIONS for ask in of.asks)
    assert asks.most_common(1)[0][1] == 1
    nouns = Counter((of.subject, of.noun) for of in RELATIONS)
    assert nouns.most_common(1)[0][1] == 1
    for entries in LISTED.values():
        assert len(entries) == len(set(entries)) > 7


def test_articles_fit_what_follows() -> None:
    for of in RELATIONS:
        for template in (*of.says, of.claim, of.check):
            assert not re.search(r"\b[aA]n? \{[sv]\}", template), template
    assert write("{A v} sat there.", "", "owl") == "An owl sat there."
    pairs = {"unicorn": "a", "11 km": "an", "eucalyptus": "a", "hour": "an", "one eye": "a"}
    assert {word: article(word) for word in pairs} == pairs
    rng = random.Random(0)
    for of in RELATIONS:
        told = fact(rng, of, set()).statement
        assert not re.search(r"\ba [aeio]\w+", told.replace("a one", "")), told


def _words(text: str) -> set[str]:
    """Content words, by their beginnings."""
    found = re.findall(r"[a-z]{4,}", FIELD.sub(" ", text).lower())
    usual = (
        "what which where when does from have with that this there their would should about into "
        "much many long will whom whose were been upon only after before more than"
    )
    return {word[:5] for word in found} - {word[:5] for word in usual.split()}


def test_questions_share_few_words_with_statements() -> None:
    shared = [len(_words(ask) & _words(says)) for of in RICH for ask in of.asks for says in of.says]
    assert sum(n == 0 for n in shared) / len(shared) > 0.7
    for of in RICH:
        apart = [
            (ask, says) for ask in of.asks for says in of.says if not _words(ask) & _words(says)
        ]
        assert len(apart) >= 3, name(of)


def test_the_facts_of_the_evaluation_are_not_among_them() -> None:
    topics = re.compile(
        r"\b(archive|guineas|clockmaker|watchmaker|broth|birthplace|telephone number)\b|"
        r"secret ingredient|favourite instrument|first saw the light|was the teacher of"
    )
    for of in RICH:
        texts = (*of.says, of.claim, of.noun, *of.asks)
        assert not any(topics.search(text) for text in texts), name(of)
    held = [_words(text) for literal, reworded, *_ in items.FACTS for text in (literal, reworded)]
    for of in RICH:
        for says in of.says:
            most = max(len(_words(says) & words) / max(4, len(words)) for words in held)
            assert most <= 0.5, says


@pytest.mark.parametrize(
    ("template", "kind", "said"),
    [
        ("Where does {s} live?", "person", "Where does she live?"),
        ("Who supervises {s}?", "person", "Who supervises her?"),
        ("How old is {s}?", "person", "How old is she?"),
        ("What is {s}'s job?", "person", "What is her job?"),
        ("Is {v} the lawyer of {s}?", "person", "Is {v} her lawyer?"),
        ("the {s} belongs to {v}", "thing", "it belongs to {v}"),
        ("Who thought up the {s}?", "dish", "Who thought it up?"),
        ("Which stream flows through {s}?", "place", "Which stream flows through it?"),
        ("How hot did it ever get in {s}?", "place", "How hot did it ever get there?"),
        ("Who trains the {s}?", "team", "Who trains them?"),
        ("How many children do the sons and daughters of {s} have?", "person", None),
    ],
)
def test_pronouns_stand_for_the_subject(template: str, kind: str, said: str | None) -> None:
    made = pronounised(template, kind, "Mrs Ann Lee")
    assert "{s}" not in made
    assert made == (said or "How many children do her sons and daughters have?")


def test_every_form_can_be_told_with_a_pronoun() -> None:
    for of in RELATIONS:
        for template in (*of.asks, of.claim, of.check):
            made = pronounised(template, of.subject, "Mrs Ann Lee")
            assert "{s}" not in made, template
            assert not re.search(r"\b(the|flight|order) (it|they|she)\b|there there", made), made


def test_persons_keep_their_pronouns() -> None:
    assert pronouns("person", "Mr Kim Osei")[0] == "he"
    assert pronouns("person", "Dr Emma Brown")[0] == "she"
    assert pronouns("person", "Xq Zw") == pronouns("person", "Xq Zw")
    assert pronouns("ship", "Emma")[0] == "it"


def test_persons_are_asked_for_with_who() -> None:
    (of,) = (of for of in RELATIONS if of.noun == "the coach of the {s}")
    asked = {question(random.Random(seed), of, "Rovers") for seed in range(60)}
    asked |= {bare_question(random.Random(seed), of, "Rovers") for seed in range(60)}
    assert "Who is the coach of the Rovers?" in asked
    assert not any("hat is the coach" in text for text in asked)
    assert called(of, "Rovers") == "the Rovers"


def test_facts_join_into_sentences() -> None:
    one, two = (of for of in RELATIONS if of.subject == "person" and of.value in ("flower", "pet"))
    rng = random.Random(0)
    first = fact(rng, one, set(), "Mrs Ann Lee", "tulips")
    second = fact(rng, two, set(), "Mrs Ann Lee", "Rex")
    made = {joined(rng, [first, second]) for _ in range(20)}
    assert made == {
        "Mrs Ann Lee grows tulips, and her dog is called Rex.",
        "Mrs Ann Lee grows tulips. Her dog is called Rex.",
    }
