"""Sections of documents: what a question about one reads, cites and costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharedllm import Document, SearchConfig, SectionError, SharedLLM
from sharedllm.encoding.parts import in_sections, part_of, parts_in
from sharedllm.errors import ConfigError, DocumentError, InputError
from sharedllm.text.outline import Section
from tests.models import shared
from tests.texts import BOOK, FERRY, STORY

QUICK: dict[str, Any] = {"max_new_tokens": 3, "budget": 200}
QUESTION = "When does the ferry leave?"


@pytest.fixture(scope="module")
def book(llm: SharedLLM) -> Document:
    return llm.remember(BOOK, title="A book", source="book.txt")


@given(start=st.integers(0, len(BOOK) - 1), length=st.integers(1, 400), first=st.booleans())
def test_a_part_is_its_characters_and_tokens(start: int, length: int, first: bool) -> None:
    llm = shared("llama", sizes={"max_position_embeddings": 8192})
    whole = _book(llm)
    section = Section(title="x", level=1, start=start, end=min(start + length, len(BOOK)))
    part = part_of(whole, section, llm.tree)
    if part is None:
        assert not BOOK[section.start : section.end].strip()
        return
    assert part.text == BOOK[section.start : section.end]
    assert (part.offset, part.characters) == (section.start, len(BOOK))
    assert len(part) == len(part.tokens) == len(part.vectors)
    begin = int(np.flatnonzero(whole.tokens.spans[:, 1] > start)[0])
    assert part.tokens.ids.tolist() == whole.tokens.ids[begin : begin + len(part)].tolist()
    assert part.tokens.spans.min() >= 0
    assert part.tokens.spans.max() <= len(part.text)
    assert sum(part.forest.end[part.forest.leaves] - part.forest.start[part.forest.leaves]) == len(
        part
    )
    inner = part_of(part, section, llm.tree)
    assert inner is not None
    assert (inner.text, inner.offset) == (part.text, part.offset)


_BOOKS: dict[int, Document] = {}


def _book(llm: SharedLLM) -> Document:
    if id(llm) not in _BOOKS:
        _BOOKS[id(llm)] = llm.remember(BOOK)
    return _BOOKS[id(llm)]


def test_remembering_finds_sections(book: Document, llm: SharedLLM) -> None:
    assert [s.title for s in book.outline] == [
        "CHAPTER I. The Rock",
        "CHAPTER II. The Boat",
        "CHAPTER III. The Chapel",
    ]
    given = llm.remember(BOOK, outline=book.outline[1:])
    assert given.outline == book.outline[1:]
    assert llm.remember(BOOK, outline=()).outline == ()
    with pytest.raises(DocumentError, match="outline"):
        llm.remember(BOOK, outline=["CHAPTER I"])  # type: ignore[list-item]
    with pytest.raises(DocumentError, match="a text of 5"):
        llm.remember("short", outline=book.outline)


@pytest.mark.parametrize("section", ["chapter 2", "II", "The Boat", "chapter ii. the boat"])
@pytest.mark.parametrize("leaves", ["text", "kv"])
def test_passages_come_only_from_the_section(
    llm: SharedLLM, book: Document, section: str, leaves: str
) -> None:
    chapter = book.outline[1]
    answer = llm.answer(QUESTION, book, section=section, leaves=leaves, **QUICK)
    assert answer.citations
    for citation in answer.citations:
        assert chapter.start <= citation.char_start < citation.char_end <= chapter.end
        assert citation.text == BOOK[citation.char_start : citation.char_end]
        assert citation.section == "CHAPTER II. The Boat"
    assert answer.usage.context_tokens == len(BOOK[chapter.start : chapter.end].encode())
    (picture,) = answer.pictures
    assert picture.characters == len(BOOK)
    assert all(span.section == "CHAPTER II. The Boat" for span in picture.passages)
    for hit in llm.passages("the lamp", book, k=9, section=section):
        assert chapter.start <= hit.char_start < hit.char_end <= chapter.end
        assert hit.section == "CHAPTER II. The Boat"


def test_several_sections_of_a_name_are_searched(llm: SharedLLM) -> None:
    text = "# A\n\n## Notes\n\nThe lamp is lit.\n\n## B\n\nx\n\n# C\n\n## Notes\n\nThe lamp is out."
    document = llm.remember(text)
    answer = llm.answer("Is the lamp lit?", document, section="notes", **QUICK)
    assert {c.section for c in answer.citations} == {"A > Notes", "C > Notes"}
    (picture,) = answer.pictures  # parts of one document are one
    assert {span.section for span in picture.passages} == {"A > Notes", "C > Notes"}


def test_documents_without_the_section_are_left_out(llm: SharedLLM, book: Document) -> None:
    story = llm.remember(STORY, title="A story")
    answer = llm.answer("Who kept the light?", [story, book], section="chapter 1", **QUICK)
    assert {c.title for c in answer.citations} == {"A book"}
    selection = llm.select("Who?", [story, book], section="chapter 1", budget=200)
    assert [one.document.title for one in selection.searched if one.nodes] == ["A book"]


def test_documents_of_messages_are_searched_in_their_section(
    llm: SharedLLM, book: Document
) -> None:
    ferry = llm.remember(FERRY, title="A ferry")
    parts = [{"type": "document", "document": one} for one in (ferry, book)]
    message = {"role": "user", "content": [*parts, {"type": "text", "text": QUESTION}]}
    answer = llm.answer([message], section="chapter 2", **QUICK)
    assert {c.section for c in answer.citations} == {"CHAPTER II. The Boat"}
    also = llm.answer([message], [llm.remember(STORY)], section="chapter 2", **QUICK)
    assert {c.title for c in also.citations} == {"A book"}
    with pytest.raises(SectionError, match="CHAPTER I"):
        llm.answer([message], section="chapter 9", **QUICK)


def test_a_section_is_made_once(llm: SharedLLM, book: Document) -> None:
    one, other = (in_sections([book], "chapter 2", llm.tree)[0] for _ in range(2))
    assert one is other
    assert parts_in(book, "chapter 9", llm.tree) == []


def test_a_section_of_the_settings_holds_for_all_questions(book: Document, llm: SharedLLM) -> None:
    own = SharedLLM(llm.encoder, search=SearchConfig(section="chapter 3"))
    for answer in own.answer_batch([QUESTION, "Who grew poppies?"], book, **QUICK):
        assert {c.section for c in answer.citations} == {"CHAPTER III. The Chapel"}
    scores = own.score("poppies", book)
    assert own.select("poppies", book, scores=scores, budget=200).nodes


@pytest.mark.parametrize("section", ["", " ", 3, ["chapter 1"], b"1", "\ud800"])
def test_what_names_no_section_is_refused(llm: SharedLLM, book: Document, section: Any) -> None:
    for ask in (
        lambda: llm.answer("Who?", book, section=section),
        lambda: llm.select("Who?", book, section=section),
    ):
        with pytest.raises(ConfigError, match="section is"):
            ask()


def test_sections_that_are_not_there(llm: SharedLLM, book: Document) -> None:
    story = llm.remember(STORY, title="A story")
    for use in (llm.answer, llm.select, llm.passages):
        with pytest.raises(SectionError, match=r"the nearest: .*CHAPTER I. The Rock"):
            use("Who?", book, section="chapter 9")
        with pytest.raises(SectionError, match="'A story' has no outline"):
            use("Who?", story, section="chapter 1")
        with pytest.raises(InputError, match="no document"):
            use("Who?", (), section="chapter 1")
