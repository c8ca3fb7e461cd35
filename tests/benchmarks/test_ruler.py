"""RULER's tasks have RULER's properties: needles, counts, prompts, lengths, depths."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.quality.ruler import items as ruler
from benchmarks.quality.ruler import words
from benchmarks.quality.ruler.needles import NOISE, TASKS
from benchmarks.quality.ruler.tracing import common_words
from sharedllm.errors import ConfigError
from sharedllm.evaluation.filler import Filler
from sharedllm.evaluation.items import Item, frame
from tests.models import make_tokenizer

TOKENIZER = make_tokenizer()
LENGTH = 12_000
NEEDLE = re.compile(r"One of the special magic (\w+) for (\S+) is: (\S+)\.")


@pytest.fixture(scope="module")
def filler(filler_file: Path) -> Filler:
    return Filler([filler_file])


def made(task: str, filler: Filler, index: int = 0, of: int = 4, length: int = LENGTH) -> Item:
    return ruler.make(task, index, of, length, TOKENIZER, filler, seed=3)


def tokens(item: Item) -> int:
    around = frame(item, TOKENIZER)
    return len(around.head) + len(item.text.encode()) + len(around.tail) + item.new_tokens


@pytest.mark.parametrize("task", ruler.TASKS)
def test_an_item_fills_its_length_and_holds_its_answers(task: str, filler: Filler) -> None:
    item = made(task, filler)
    assert 0.95 * LENGTH < tokens(item) <= LENGTH
    assert all(answer in item.text for answer in item.answers)
    assert item == made(task, filler)
    assert item.text != made(task, filler, index=1).text
    if task != "cwe":  # RULER draws the words of its example from the same list
        assert not any(answer in item.before + item.after + item.prefix for answer in item.answers)


@pytest.mark.parametrize("task", TASKS)
def test_needles_are_of_the_kind_and_number_that_ruler_states(task: str, filler: Filler) -> None:
    wanted, item = TASKS[task], made(task, filler)
    found = NEEDLE.findall(item.text)
    assert {kind for kind, _, _ in found} == {wanted.values}
    planted = [f for f in found if f[2] in item.answers]
    assert len(planted) == wanted.n_queries * wanted.n_values == len(item.answers)
    assert len({key for _, key, _ in planted}) == wanted.n_queries
    assert all(key in item.after and key in item.prefix for _, key, _ in planted)
    if wanted.haystack == "needles":
        assert len(found) > 50
        assert len({key for _, key, _ in found}) == len(found)
        assert NEEDLE.sub("", item.text).strip() == ""
    else:
        assert len(found) == wanted.n_keys * wanted.n_values
    if wanted.haystack == "noise":
        rest = {line for line in item.text.split("\n") if not NEEDLE.fullmatch(line)}
        assert rest == {NOISE}
    shape = {"numbers": r"\d{7}", "uuids": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"}
    assert all(re.fullmatch(shape[wanted.values], value) for _, _, value in found)


def test_prompts_are_rulers(filler: Filler) -> None:
    one, many = made("niah_single_1", filler), made("niah_multiquery", filler)
    assert one.before == (
        "A special magic number is hidden within the following text. Make sure to memorize it. "
        "I will quiz you about the number afterwards.\n"
    )
    assert one.after.startswith("\nWhat is the special magic number for ")
    assert re.fullmatch(
        r"The special magic number for \S+ mentioned in the provided text is", one.prefix
    )
    assert many.before.startswith("Some special magic numbers are hidden")
    assert re.search(r"for \S+, \S+, \S+, and \S+ mentioned", many.after)


def test_first_needles_stand_at_evenly_spread_depths(filler: Filler) -> None:
    depths = []
    for index in range(4):
        item = made("niah_single_2", filler, index=index)
        depths.append(item.text.index(item.answers[0]) / len(item.text))
    assert depths == pytest.approx([0.125, 0.375, 0.625, 0.875], abs=0.05)


def test_variables_are_a_chain_after_a_solved_example(filler: Filler) -> None:
    item = made("vt", filler)
    assert len(item.answers) == 5
    steps = re.findall(r"VAR (\w+) = (VAR )?(\w+)", item.text)
    assert [new for new, _, _ in steps] == list(item.answers)
    assert [old for _, _, old in steps[1:]] == list(item.answers[:-1])
    assert steps[0][2] in item.after
    assert item.before.count("Memorize and track") == 2
    solved = re.search(r"they are: (.*)\n", item.before)
    assert solved is not None
    assert len(solved[1].split()) == 5
    assert not set(solved[1].split()) & set(item.answers)


def test_common_words_stand_ten_times_as_often(filler: Filler) -> None:
    item = made("cwe", filler)
    counts = Counter(re.findall(r"\d+\. ([^\d]+?)(?= \d+\.|$)", item.text))
    assert {word for word, n in counts.items() if n == 30} == set(item.answers)
    assert {n for word, n in counts.items() if word not in item.answers} == {3}
    short = made("cwe", filler, length=3_500)
    counts = Counter(re.findall(r"\d+\. ([^\d]+?)(?= \d+\.|$)", short.text))
    assert sorted(set(counts.values())) == [1, 6]


def test_frequent_words_are_the_three_after_the_dots(filler: Filler) -> None:
    item = made("fwe", filler)
    ranked = Counter(item.text.split()).most_common(5)
    assert ranked[0][0] == "..."
    assert [word for word, _ in ranked[1:4]] == list(item.answers)
    assert ranked[3][1] > ranked[4][1]


def test_words_do_not_run_out() -> None:
    n = len(words.single()) + 50
    text = common_words(0, 1 << 20)(n).text
    assert len(set(re.findall(r"\d+\. ([^\d]+?)(?= \d+\.|$)", text))) == n + 10


def test_missing_filler_and_short_lengths_are_refused(filler: Filler) -> None:
    with pytest.raises(ConfigError, match="--filler"):
        ruler.make("niah_single_2", 0, 1, LENGTH, TOKENIZER, None, 0)
    with pytest.raises(ConfigError, match="takes at least"):
        made("niah_single_2", filler, length=300)


def test_a_short_filler_is_repeated_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("One line of text. And another one! Is it? ")
    short = Filler([path])
    item = made("niah_single_2", short)
    assert item.text.count("another one") > 10
    assert short.repeats


def test_two_hops_need_both_facts(filler: Filler) -> None:
    item = made("two_hop", filler)
    keepers = dict(re.findall(r"The keeper of (\S+) is (\S+)\.", item.text))
    numbers = dict(re.findall(r"The secret number of (\S+) is (\d+)\.", item.text))
    assert len(keepers) == len(numbers) == 4
    (place,) = [place for place in keepers if place in item.after]
    assert item.answers == (numbers[keepers[place]],)
    assert keepers[place] not in item.before + item.after + item.prefix
