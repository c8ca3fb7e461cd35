from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken

from sharedllm import GenerationConfig
from sharedllm.generation.logits_processors import Row
from sharedllm.generation.row_text import RowText
from sharedllm.generation.thoughts import divide, opens_thought
from tests.models import make_tokenizer

HARMONY = (
    "<|channel|>analysis<|message|>Who? Ansel.<|end|><|start|>assistant"
    "<|channel|>final<|message|>Ansel Byrd"
)
CASES = [
    ("Ansel Byrd", False, "Ansel Byrd", ""),
    ("<think>Who?</think>\n\nAnsel", False, "Ansel", "Who?"),
    ("\n<think>\nWho?\n</think>\nAnsel", False, "Ansel", "Who?"),
    ("[THINK]Who?[/THINK]Ansel", False, "Ansel", "Who?"),
    ("<|START_THINKING|>Who?<|END_THINKING|>Ansel", False, "Ansel", "Who?"),
    ("<seed:think>Who?</seed:think>Ansel", False, "Ansel", "Who?"),
    ("Who?</think>Ansel", True, "Ansel", "Who?"),
    ("<think>Who, and on", False, "", "Who, and on"),
    ("Who, and on", True, "", "Who, and on"),
    ("He writes <think> in the log", False, "He writes <think> in the log", ""),
    ("<think></think>Ansel", False, "Ansel", ""),
    ("<thin air", False, "<thin air", ""),
    (HARMONY, False, "Ansel Byrd", "Who? Ansel."),
    ("<|channel|>final<|message|>Ansel<|return|>", False, "Ansel", ""),
    ("<|channel|>commentary to=functions.add<|message|>{}<|call|>", False, "{}", ""),
    ("", False, "", ""),
]


@pytest.mark.parametrize(("raw", "inside", "answer", "thoughts"), CASES)
def test_thoughts_are_told_apart(raw: str, inside: bool, answer: str, thoughts: str) -> None:
    assert divide(raw, inside=inside) == (answer, thoughts)


@pytest.mark.parametrize(("raw", "inside", "answer", "thoughts"), CASES)
@given(data=st.data())
def test_what_was_given_out_stays(
    raw: str, inside: bool, answer: str, thoughts: str, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(raw)))
    before = divide(raw[:cut], inside=inside, ended=False)[0]
    assert answer.startswith(before)


def test_prompts_that_open_a_thought() -> None:
    assert opens_thought("<|im_start|>assistant\n<think>\n")
    assert not opens_thought("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_marks_that_are_special_tokens_are_seen() -> None:
    tokenizer = make_tokenizer()
    marks = ["<|channel|>", "<|message|>", "<|start|>", "<|return|>"]  # <|end|> it has
    tokenizer.add_tokens([AddedToken(mark, special=True) for mark in marks])
    ends = frozenset(tokenizer.convert_tokens_to_ids(["<|end|>", "<|return|>"]))
    text, row = RowText(tokenizer, ends), Row()
    config = GenerationConfig(max_new_tokens=200)
    pieces = ""
    for token in tokenizer(f"{HARMONY}<|return|>", add_special_tokens=False)["input_ids"]:
        pieces += text.advance(row, token, config)
    assert (pieces, row.text, row.reasoning) == ("Ansel Byrd", "Ansel Byrd", "Who? Ansel.")
    assert row.finish_reason == "stop"


def test_stop_texts_do_not_end_thoughts() -> None:
    tokenizer = make_tokenizer()
    text, row = RowText(tokenizer, frozenset({256})), Row(thinking=True)
    config = GenerationConfig(max_new_tokens=200, stop=("END",))
    for token in tokenizer("an END </think> Ansel END more")["input_ids"]:
        if row.finish_reason is None:
            text.advance(row, token, config)
    assert (row.text, row.reasoning, row.finish_reason) == ("Ansel ", "an END", "stop")
