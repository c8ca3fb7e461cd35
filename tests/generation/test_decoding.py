from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharedllm import GenerationConfig
from sharedllm.encoding.document_encoder import ModelLock
from sharedllm.generation.decoding import Decoder
from sharedllm.generation.logits_processors import Row
from sharedllm.injection.positions import Prompt
from tests.models import TEMPLATE, VOCABULARY, make_tokenizer

TOKENIZER = make_tokenizer()
END = 256
PROMPT = Prompt(text=((1,),))


class Scripted:
    """An upper model that wants to say one text a row, then to end."""

    device, spread = torch.device("cpu"), False

    def __init__(self, *texts: str, margin: float = 50.0, second: float = 0.0) -> None:
        self.rows = [[*TOKENIZER(text)["input_ids"], END] for text in texts]
        self.margin, self.second = margin, second  # logits of the wanted token, and of "z"
        self.steps, self.fed = 0, list[list[int]]()

    def _logits(self) -> torch.Tensor:
        logits = torch.zeros(len(self.rows), VOCABULARY)
        logits[:, TOKENIZER("z")["input_ids"]] = self.second
        for row, ids in enumerate(self.rows):
            logits[row, ids[min(self.steps, len(ids) - 1)]] = self.margin
        return logits

    @torch.inference_mode()
    def start(self, prompts: Sequence[Prompt]) -> Any:
        assert len(prompts) == len(self.rows)
        return SimpleNamespace(logits=self._logits())

    @torch.inference_mode()
    def step(self, session: Any, ids: Sequence[int]) -> None:
        self.steps += 1
        self.fed.append(list(ids))
        session.logits = self._logits()


def run(upper: Any, **options: Any) -> tuple[list[Row], list[tuple[int, str]]]:
    decoder = Decoder(upper, TOKENIZER, frozenset({END}), ModelLock())
    rows = [Row() for _ in upper.rows]
    options = {"max_new_tokens": 100, **options}
    pieces = list(decoder.run([PROMPT] * len(rows), GenerationConfig(**options), rows))
    assert pieces[0] == (-1, "")  # prefilled
    for index, row in enumerate(rows):
        assert "".join(piece for i, piece in pieces[1:] if i == index) == row.text
    assert all(piece for _, piece in pieces[1:])
    return rows, pieces[1:]


def test_an_answer_ends_with_the_end_token_which_is_not_part_of_it() -> None:
    upper = Scripted("Ansel")
    (row,), pieces = run(upper)
    assert (row.text, row.finish_reason, len(row.ids)) == ("Ansel", "stop", 5)
    assert [piece for _, piece in pieces] == list("Ansel")
    assert upper.fed == [[token] for token in row.ids]  # the end token is not run


def test_max_new_tokens() -> None:
    upper = Scripted("Ansel Byrd")
    (row,), _ = run(upper, max_new_tokens=5)
    assert (row.text, row.finish_reason, upper.steps) == ("Ansel", "length", 4)


@pytest.mark.parametrize(
    ("said", "stop", "text"),
    [
        ("one. two", (".",), "one"),
        ("one\n\ntwo", ("\n\n",), "one"),  # across tokens
        ("one\ntwo\n\nthree", ("\n\n",), "one\ntwo"),
        ("ababac!", ("abac",), "ab"),  # starts inside a false start
        ("a END b", ("STOP", "END", " E"), "a"),  # whichever comes first in the text
        ("to the en", ("end",), "to the en"),  # held back, then given out
        ("x\u00e9y", ("\u00e9",), "x"),
        ("xb\u00e9y", ("b\u00e9",), "x"),  # goes on in an unfinished character
        ("stop", ("stop",), ""),
    ],
)
def test_stop_texts(said: str, stop: tuple[str, ...], text: str) -> None:
    (row,), _ = run(Scripted(said), stop=stop)
    assert (row.text, row.finish_reason) == (text, "stop")


def test_a_base_model_stops_where_it_asks_the_next_question(monkeypatch: Any) -> None:
    said = "At seven.\n\nQuestion: Why?"
    monkeypatch.setattr(TOKENIZER, "chat_template", None)
    (row,), _ = run(Scripted(said))
    assert (row.text, row.finish_reason) == ("At seven.", "stop")
    monkeypatch.setattr(TOKENIZER, "chat_template", TEMPLATE)  # it ends its turn
    (row,), _ = run(Scripted(said))
    assert row.text == said


def test_a_stop_text_ends_before_max_new_tokens_says_length() -> None:
    (row,), _ = run(Scripted("ab"), stop=("b",), max_new_tokens=2)
    assert (row.text, row.finish_reason) == ("a", "stop")
    (row,), _ = run(Scripted("ab"), stop=("bc",), max_new_tokens=2)
    assert (row.text, row.finish_reason) == ("ab", "length")


def test_unfinished_characters_are_held_back() -> None:
    (row,), pieces = run(Scripted("a\u00e9\U0001f600"))
    assert [piece for _, piece in pieces] == ["a", "\u00e9", "\U0001f600"]
    (row,), pieces = run(Scripted("a\U0001f600"), max_new_tokens=3)
    assert row.text[0] == "a"
    assert set(row.text[1:]) == {"\ufffd"}  # all there is
    assert len(pieces) == 2


@given(ids=st.lists(st.integers(0, 255), min_size=1, max_size=40))
def test_the_text_is_that_of_all_tokens_together(ids: list[int]) -> None:
    """Random bytes: broken characters of every kind."""
    upper = Scripted("")
    upper.rows = [[*ids, END]]
    (row,), _ = run(upper)
    assert row.ids == ids
    assert row.text == TOKENIZER.decode(ids)


def test_rows_end_on_their_own() -> None:
    upper = Scripted("a", "abc", "", "ab\u00e9\u00e9")
    rows, _ = run(upper, stop=("c",))
    assert [row.text for row in rows] == ["a", "ab", "", "ab\u00e9\u00e9"]
    assert [len(row.ids) for row in rows] == [1, 3, 0, 6]
    assert upper.steps == 6


def test_sampling_is_repeatable_with_a_seed() -> None:
    def sample(seed: int | None, **options: Any) -> list[str]:
        upper = Scripted("aaaaaaaaaa", "bbbbbbbbbb", margin=4.0)
        options = {"temperature": 1.5, "max_new_tokens": 8, **options}
        return [str(row.ids) for row in run(upper, seed=seed, **options)[0]]

    assert sample(3) == sample(3)
    assert sample(3) != sample(4)
    assert sample(None) != sample(None)
    greedy = [str(TOKENIZER(c * 8)["input_ids"]) for c in "ab"]
    assert sample(3, temperature=0.01) == greedy
    assert sample(3, top_k=1) == greedy
    assert sample(3, top_p=0.01) == greedy
    assert sample(3, temperature=0.0) == greedy


def test_sampling_follows_the_temperature() -> None:
    """Logits 4 and 2: at temperature 2 the odds are e to 1."""
    (row,), _ = run(
        Scripted("a" * 800, margin=4.0, second=2.0),
        temperature=2.0,
        top_k=2,
        seed=1,
        max_new_tokens=800,
    )
    assert row.text.count("a") / 800 == pytest.approx(math.e / (math.e + 1), abs=0.05)
    assert set(row.text) == {"a", "z"}


def test_the_repetition_penalty_lowers_what_was_said() -> None:
    for penalty, said in ((1.0, "aab"), (2.0, "azb")):
        upper = Scripted("aab", margin=1.0, second=0.6)
        (row,), _ = run(upper, max_new_tokens=3, repetition_penalty=penalty)
        assert row.text == said


def test_rows_are_penalised_for_their_own_words() -> None:
    upper = Scripted("ab", "ba", margin=1.0, second=0.6)
    rows, _ = run(upper, max_new_tokens=2, repetition_penalty=2.0)
    assert [row.text for row in rows] == ["ab", "ba"]


@pytest.mark.parametrize(
    ("margin", "abstaining", "reads", "said"),
    [
        (0.0, 0.0, True, "no"),
        (1.0, 0.0, True, "zo"),
        (1.0, 0.0, False, "no"),
        (1.0, 1.0, True, "no"),
        (0.0, -1.0, True, "zo"),
        (0.0, -1.0, False, "no"),
    ],
)
def test_a_refusal_must_be_ahead(margin: float, abstaining: float, reads: bool, said: str) -> None:
    upper = Scripted("no", margin=1.0, second=0.6)
    decoder = Decoder(upper, TOKENIZER, frozenset({END}), ModelLock())  # type: ignore[arg-type]
    decoder.refusal_id = TOKENIZER("n")["input_ids"][0]
    decoder.abstaining = abstaining
    row, prompt = Row(), Prompt(text=((1,),), reads=reads)
    config = GenerationConfig(max_new_tokens=2, refusal_margin=margin)
    list(decoder.run([prompt], config, [row]))
    assert row.text == said


def test_only_the_beginning_of_an_answer_is_a_refusal() -> None:
    upper = Scripted("an", margin=1.0, second=0.6)
    decoder = Decoder(upper, TOKENIZER, frozenset({END}), ModelLock())  # type: ignore[arg-type]
    decoder.refusal_id = TOKENIZER("n")["input_ids"][0]
    row = Row()
    config = GenerationConfig(max_new_tokens=2, refusal_margin=1.0)
    list(decoder.run([Prompt(text=((1,),), reads=True)], config, [row]))
    assert row.text == "an"


@pytest.mark.parametrize(
    ("penalty", "reads", "adapter", "said"),
    [
        (0.0, True, True, "ab, ab"),
        (0.5, True, True, "ab, zb"),
        (0.3, True, True, "ab, ab"),  # too little: the model is surer
        (0.5, False, True, "ab, ab"),
        (0.5, True, False, "ab, ab"),
    ],
)
def test_an_adapter_gives_no_item_of_a_list_twice(
    penalty: float, reads: bool, adapter: bool, said: str
) -> None:
    upper = Scripted("ab, ab", margin=1.0, second=0.6)
    decoder = Decoder(upper, TOKENIZER, frozenset({END}), ModelLock())  # type: ignore[arg-type]
    if adapter:
        decoder.refusal_id = TOKENIZER("n")["input_ids"][0]
    row, prompt = Row(), Prompt(text=((1,),), reads=reads)
    config = GenerationConfig(max_new_tokens=6, list_penalty=penalty)
    list(decoder.run([prompt], config, [row]))
    assert row.text == said


@pytest.mark.parametrize(("reads", "shown"), [(True, "ab"), (False, " ab")])
def test_the_lead_of_an_answer_is_not_given_out(reads: bool, shown: str) -> None:
    decoder = Decoder(Scripted(" ab"), TOKENIZER, frozenset({END}), ModelLock())
    decoder.refusal_id, decoder.lead = TOKENIZER("n")["input_ids"][0], " "
    rows = [Row()]
    prompt = Prompt(text=((1,),), reads=reads)
    pieces = list(decoder.run([prompt], GenerationConfig(max_new_tokens=8), rows))
    assert rows[0].text == "".join(piece for _, piece in pieces) == shown
