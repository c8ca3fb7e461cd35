"""What training selects: the evidence, at no fixed rank; and what is asked where it is missing."""

from __future__ import annotations

import pytest

from sharedllm.generation.prompt import ABSENT
from sharedllm.training import batch
from sharedllm.training.batch import Chooser, group_by_length
from sharedllm.training.examples import Example
from sharedllm.training.train_config import SelectionConfig
from tests.models import TREE, make_tokenizer
from tests.texts import STORY

PAST = STORY * 4
END = 258


def example(start: int) -> Example:
    return Example(
        kind="qa", past=PAST, question="Who?", answer="the keeper", evidence=((start, start + 10),)
    )


def chooser(seed: int = 0, **settings: object) -> Chooser:
    config = SelectionConfig(budget=(120, 200), coarse=0.0, noise=0.0, **settings)  # type: ignore[arg-type]
    return Chooser(make_tokenizer(), TREE, config, END, seed)


@pytest.mark.parametrize("leaves", ["text", "kv"])
def test_the_evidence_is_selected_and_not_always_best(leaves: str) -> None:
    choose = chooser(miss=0.0, leaves=(leaves,))
    best = []
    for start in range(0, len(PAST) - 10, 97):
        choice = choose(example(start))
        (document,) = choice.plan.conversation.documents
        windows = choice.plan.windows[0]
        spans = {w: document.tokens.characters(w.start, w.end) for w in windows}
        holding = [w for w, (a, b) in spans.items() if a < start + 10 and start < b]
        assert holding
        best.append(max(windows, key=lambda w: w.score) in holding)
        assert choice.kind == f"qa/{leaves}"
        assert len(choice.target) == len("the keeper") + 1
        assert choice.target[-1] == END
    assert 0 < sum(best) < len(best)


def test_where_nothing_of_it_is_selected_the_answer_is_that_it_is_not_there() -> None:
    choose = chooser(miss=1.0, leaves=("text",))
    lengths = {len(choose(example(start)).target) for start in range(0, len(PAST) - 10, 97)}
    assert lengths == {len("the keeper") + 1, len(ABSENT) + 1}


def test_language_modelling_goes_on_behind_the_last_leaf() -> None:
    plain = Example(kind="lm", past=PAST * 8, question="", answer="and so on")
    choose = chooser(leaves=("text",))
    for _ in range(20):
        choice = choose(plain)
        (document,) = choice.plan.conversation.documents
        assert choice.plan.windows[0][-1].end == len(document)


def test_lengths_are_grouped_with_little_padding() -> None:
    lengths = [10, 9000, 12, 8900, 11]
    assert group_by_length(lengths) == [[1, 3], [2, 4, 0]]
    assert group_by_length([5]) == [[0]]


PROMPTS = (
    ("", "{question}\n\n{documents}"),
    ("Use this: {documents}", "{question}"),
    ("Be brief.", "{documents}\nQ: {question}"),
)


def test_prompts_of_ones_own_are_drawn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "OWN", 0.0)
    choose = chooser(leaves=("text",), miss=0.0, prompts=PROMPTS)
    first: list[bool] = []
    prompts = set()
    for _ in range(30):
        choice = choose(example(0))
        parts = choice.plan.conversation.parts
        at = next(i for i, part in enumerate(parts) if not isinstance(part, str))
        before, after = ("".join(map(str, p)) for p in (parts[:at], parts[at + 1 :]))
        assert ("Who?" in before) != ("Who?" in after)
        assert "{" not in before + after
        assert "Who?" in choice.plan.conversation.query
        first.append("Who?" in before)
        prompts.add((before, after))
    assert len(prompts) == len(PROMPTS)
    assert 0 < sum(first) < len(first)


@pytest.mark.parametrize("prompt", [("", "{documents}"), ("{question}", "{question} {documents}")])
def test_a_prompt_without_its_parts_is_refused(prompt: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="holds"):
        SelectionConfig(prompts=(prompt,))
