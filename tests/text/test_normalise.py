"""Normalised text: what is read, and which characters of the original text it stands for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharedllm import MemoryDocument, SharedLLM
from sharedllm.errors import DocumentError
from sharedllm.search.bm25 import WordIndex
from sharedllm.text.normalise import normalise
from sharedllm.text.tokens import tokenize
from tests.conftest import Make
from tests.models import make_tokenizer
from tests.texts import FERRY, GARDEN, STORY


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("com\xadmit\xadtee", "committee"),
        ("com\xad\n  mittee and\xad", "committee and"),
        ("zero\u200bwidth \u2060joined \ufeffmarked", "zerowidth joined marked"),
        ("o\0ce", "oce"),
        ("\u202eturned\u202c", "turned"),
        ("un\U000e0068\U000e0069seen", "unseen"),
        ("\uff21\uff22\uff23\uff11\uff12\u3000\uff03\uff05", "ABC12 #%"),
        ("\ufb01nal o\ufb03ce", "final office"),
        ("cafe\u0301 nin\u0303o", "caf\xe9 ni\xf1o"),
        ("\uff76\uff9e\u304b\u3099", "\u30ac\u304c"),
        ("\u1112\u1161\u11ab", "\ud55c"),
        ("\u2f64\u6237", "\u7528\u6237"),
        ("\U0001d400\U0001d41b", "Ab"),
        ("10\xa0000\u202f\u20ac", "10 000 \u20ac"),
        ("well\u2011known\u2028next", "well-known\nnext"),
        ("a page\n\fends", "a page \nends"),
    ],
)  # fmt: skip
def test_what_is_read(text: str, read: str) -> None:
    assert normalise(text).text == read


ODD = "ab \xad\u200b\0\u0301\ufb03\uff21\uff76\uff9e\u1112\u1161\u11ab\xa0\u2011\n\f.\u00ad\u4f60"


@given(st.text(st.sampled_from(ODD), max_size=60))
def test_every_character_knows_its_place(text: str) -> None:
    read = normalise(text)
    every = np.asarray([(i, i + 1) for i in range(len(read.text))], dtype=np.int32).reshape(-1, 2)
    places = read.original(every).tolist()
    assert all(0 <= start < end <= len(text) for start, end in places)
    assert places == sorted(places)
    for character, (start, end) in zip(read.text, places, strict=True):
        assert character in normalise(text[start:end]).text or character in " \n"
    assert normalise(read.text).text == read.text or "\u0301" in text


@pytest.mark.timeout(20)
def test_a_long_row_of_accents_ends() -> None:
    assert normalise("a" + "\u0301\u0316" * 500_000).text.startswith("\xe1")


def test_tokens_are_those_of_the_plain_text_at_places_of_the_original() -> None:
    tokenizer = make_tokenizer()
    plain = tokenize("the committee of Kyo", tokenizer)
    odd = "the com\xadmit\xadtee o\0f \uff2b\uff59o"
    tokens = tokenize(odd, tokenizer)
    assert tokens.ids.tolist() == plain.ids.tolist()
    start, end = tokens.characters(0, len(tokens))
    assert (start, end) == (0, len(odd))
    with pytest.raises(DocumentError, match="no text"):
        tokenize("\xad\u200b\0", tokenizer)


SHY = "The com\xadmit\xadtee ap\xadpoint\xaded Dr Halvorsen as trea\xadsur\xader of \uff2fslo."


def test_search_finds_it_and_cites_the_original(llm: SharedLLM, make: Make) -> None:
    question = "Who was appointed treasurer by the committee?"
    memory = make(candidates=1)  # a large memory: words choose what is searched
    others = [MemoryDocument(id=str(i), text=t) for i, t in enumerate((STORY, FERRY, GARDEN))]
    memory.add([*others, MemoryDocument(id="shy", text=SHY)])
    for found in (memory.search(question, 1)[0], memory.search("osl\uff4f", 1)[0]):
        assert found.id == "shy"
        assert found.text == SHY[found.char_start : found.char_end]
    assert memory.verify().clean
    assert memory.verify(repair=True).clean
    answer = llm.answer(question, memory, max_new_tokens=1)
    cited = {c.text for c in answer.citations if c.document == "shy"}
    assert cited == {SHY}


def test_the_index_of_words_of_a_document(tiny_llm: SharedLLM) -> None:
    words = WordIndex.of(tiny_llm.remember("x " * 100 + SHY))
    assert {"committee", "appointed", "oslo"} <= set(words.rows)
    assert words.leaf[words.places_of("oslo")].max() >= len(words.lengths) - 2
