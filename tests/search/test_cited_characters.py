"""Characters and tokens: what is cited is what stands there, in any script."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sharedllm import Document, SharedLLM
from sharedllm.text.tokens import tokenize
from tests.models import make_tokenizer, shared
from tests.strategies import UNICODE

TOKENIZER = make_tokenizer()
LLM = shared("llama")


@given(text=UNICODE, data=st.data())
def test_token_spans_cover_the_text(text: str, data: st.DataObject) -> None:
    tokens = tokenize(text, TOKENIZER)
    assert tokens.characters(0, len(tokens)) == (0, len(text))
    start = data.draw(st.integers(0, len(tokens) - 1))
    end = data.draw(st.integers(start + 1, len(tokens)))
    first, last = tokens.characters(start, end)
    raw = text.encode()[start:end]  # one token a byte
    assert raw in text[first:last].encode()
    assert len(text[first:last].encode()) - len(raw) <= 6  # at most the rest of two characters
    assert tokens.characters(start, start) == (0, 0)


@given(text=UNICODE, repeats=st.integers(1, 12), leaves=st.sampled_from(["text", "kv"]))
def test_citations_are_what_stands_there(text: str, repeats: int, leaves: str) -> None:
    document: Document = LLM.remember(text * repeats)
    stream = LLM.stream("What?", document, leaves=leaves, budget=80, max_new_tokens=1)
    assert stream.citations
    for citation in stream.citations:
        assert document.text[citation.char_start : citation.char_end] == citation.text
        assert citation.text
    covered = sum(len(c.text.encode()) for c in stream.citations)
    assert covered <= 80 + 6 * len(stream.citations)
    scores = [c.score for c in stream.citations]
    assert scores == sorted(scores, reverse=True)


@given(a=UNICODE, b=UNICODE)
def test_the_same_text_has_the_same_id(a: str, b: str) -> None:
    llm: SharedLLM = LLM
    assert (llm.remember(a).id == llm.remember(b).id) == (a == b)
