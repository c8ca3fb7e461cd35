"""The bench of questions about whole documents: what is planted, what is scored, whose prompts."""

from __future__ import annotations

import re

import pytest
from langchain_classic.chains.question_answering import map_reduce_prompt, refine_prompts
from langchain_classic.chains.summarize import map_reduce_prompt as summary_prompt
from langchain_classic.chains.summarize import refine_prompts as summary_refine

from benchmarks.quality import whole_chains
from benchmarks.quality.whole import names_of, scores
from benchmarks.quality.whole_items import KINDS, plant_all, planted

FILLER = "The rain fell on the harbour. Nobody spoke.\n\n" * 400


@pytest.mark.parametrize("seed", range(10))
def test_facts_stand_once_and_apart_in_their_order(seed: int) -> None:
    items = [planted(kind, seed + 2 * at) for at, kind in enumerate(KINDS)]
    text = plant_all(items, FILLER, seed)
    for item in items:
        places = [text.index(fact) for fact in item.facts]
        assert places == sorted(places)
        assert all(text.count(fact) == 1 for fact in (*item.facts, *item.others))
        if item.kind != "comparison":
            assert len(item.answers) == len(item.facts) == len(set(item.answers))
            assert all(
                a.lower() in f.lower() for a, f in zip(item.answers, item.facts, strict=True)
            )
            listed = " ".join(item.others).lower()
            assert not any(re.search(rf"\b{re.escape(a.lower())}\b", listed) for a in item.answers)
    assert planted("list", seed) == planted("list", seed)


def row(kind: str, answer: str, answers: list[str]) -> dict[str, object]:
    return {"kind": kind, "answer": answer, "answers": answers}


def test_scores() -> None:
    names = ["Ada Wren", "Boris Lund"]
    assert scores(row("list", "- Ada Wren\n- Zed", names)) == {
        "recall": 0.5,
        "right": 1,
        "listed": 2,
    }
    counted = scores(row("count", "2\n- Ada Wren\n- Boris Lund", names))
    assert counted == {"recall": 1.0, "exact": 1.0, "within_one": 1.0}
    said = scores(row("count", "There are 4 members.", names))
    assert (said["exact"], said["within_one"]) == (0.0, 0.0)
    assert scores(row("comparison", "Corwen (4; Ashby: 3)", ["Corwen", "Ashby"])) == {"right": 1.0}
    assert scores(row("comparison", "Ashby", ["Corwen", "Ashby"])) == {"right": 0.0}
    summary = scores(row("summary", "Beau met Nila.", ["Then Beau met Nila in 1849."]))
    assert summary["names"] == pytest.approx(2 / 3)
    assert names_of("He met Beau Brown. She left at 9.") == {"Beau", "Brown", "9"}


def test_chains_are_asked_as_langchain_asks() -> None:
    system = map_reduce_prompt.CHAT_QUESTION_PROMPT.messages[0].prompt.template
    assert system == whole_chains.MAP
    system = map_reduce_prompt.CHAT_COMBINE_PROMPT.messages[0].prompt.template
    assert system == whole_chains.COMBINE
    assert refine_prompts.CHAT_QUESTION_PROMPT.messages[0].prompt.template == whole_chains.FIRST
    last = refine_prompts.CHAT_REFINE_PROMPT.messages[-1].prompt.template
    assert last == whole_chains.REFINE
    assert summary_prompt.PROMPT.template == whole_chains.SUMMARY
    assert summary_refine.REFINE_PROMPT.template == whole_chains.REFINE_SUMMARY
