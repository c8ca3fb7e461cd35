"""What a notebook shows of answers, searches, documents and trees, and how long it stays."""

from __future__ import annotations

import dataclasses
import gc
import html
import io
import pickle
import re
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
from rich.console import Console

from sharedllm import Answer, Document, MemoryDocument, SharedLLM, TreeMemory
from sharedllm.display.html import results
from sharedllm.display.picture import Excerpt, Picture, Span, around, joined, lanes, ranked
from sharedllm.display.plain import begins, flowing, printable
from sharedllm.display.views import pictures
from sharedllm.displayed import Displayed
from tests.display.html_tree import check
from tests.models import shared
from tests.texts import FERRY, STORY

ATTACK = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>\"' onmouseover='alert(3)' "
    "</mark></div></style><a href='javascript:alert(4)'>here</a><!-- &lt;b&gt; \x00\x1b[2J"
)


@pytest.fixture(scope="module")
def answer(tiny_llm: SharedLLM, story: Document) -> Answer:
    options = {"budget": 120, "coarse": "all", "max_new_tokens": 3}
    return tiny_llm.answer("Who rowed out?", story, **options)  # type: ignore[arg-type]


def test_an_answer_shows_its_evidence_in_its_text(answer: Answer, story: Document) -> None:
    page = check(_html(answer))
    marks = page.every("mark")
    assert len(marks) == len(answer.citations)
    (picture,) = answer.pictures
    assert picture.characters == len(story.text)
    found = [(o.span.start, o.span.end, o.span.score, o.span.level) for o in ranked([picture])]
    assert found == [(c.char_start, c.char_end, c.score, c.level) for c in answer.citations]
    for citation in answer.citations:
        assert picture.text(citation.char_start, citation.char_end) == citation.text
    assert "The lighthouse" in page.text
    assert "lighthouse.txt" in page.text
    classes = [str(a.get("class")) for _, a in page.elements]
    assert any(c.startswith("coarse l") for c in classes)
    assert any(c.startswith("node fine l") for c in classes)


def test_the_whole_of_a_short_text_can_be_opened(answer: Answer, story: Document) -> None:
    found = re.search(r'<div class="text" dir="auto">(.*?)</div>', _html(answer), re.DOTALL)
    assert found is not None
    shown = found[1]
    added = r'<a class="number".*?</a>|<summary>.*?</summary>|<[^>]+>'
    assert html.unescape(re.sub(added, "", shown)) == printable(flowing(story.text))


def test_two_outputs_of_one_notebook_do_not_share_ids(answer: Answer) -> None:
    first, second = check(_html(answer)).ids(), check(_html(answer)).ids()
    assert first
    assert not set(first) & set(second)


def test_an_answer_outlives_what_a_model_computed(tiny_llm: SharedLLM) -> None:
    document = tiny_llm.remember(STORY)
    answer = tiny_llm.answer("Who rowed out?", document, budget=120, max_new_tokens=2)
    selection = tiny_llm.select("Who rowed out?", document, budget=120)
    vectors, nodes = weakref.ref(document.vectors), weakref.ref(document.nodes)
    del document
    gc.collect()
    assert vectors() is None
    assert nodes() is None
    for kept in (answer, selection):
        assert check(_html(kept)).every("mark")


def test_an_answer_can_be_pickled(answer: Answer, story: Document) -> None:
    again = pickle.loads(pickle.dumps(answer))
    assert again == answer
    assert hash(again) == hash(answer)
    assert again.pictures == answer.pictures
    assert len(pickle.dumps(answer)) < 50 * len(story)  # no vectors, of 128 bytes a token
    assert not {"pictures", "selection"} & answer.to_dict().keys()
    assert "selection" not in repr(answer)


def test_a_value_without_a_renderer_shows_its_repr() -> None:
    class Plain(Displayed):
        def __repr__(self) -> str:
            return "Plain([/bold])"

    console = Console(file=io.StringIO())
    console.print(Plain())
    assert console.file.getvalue() == "Plain([/bold])\n"  # type: ignore[attr-defined]
    assert Plain()._repr_html_() is None  # a notebook shows the repr instead


def _html(value: Displayed) -> str:
    shown = value._repr_html_()
    assert shown is not None
    return shown


def test_nothing_of_a_document_becomes_markup(tiny_llm: SharedLLM) -> None:
    document = tiny_llm.remember(ATTACK * 3, title=ATTACK, source=ATTACK)
    selection = tiny_llm.select("here", document, budget=200)
    answer = tiny_llm.answer("here", document, budget=200, max_new_tokens=2)
    attacked = dataclasses.replace(answer, text=ATTACK)
    for shown in (attacked, selection, document):
        page = check(_html(shown))
        assert "<script>alert(1)</script>" in page.text
        assert "\x1b" not in page.text


def test_a_selection_and_a_forest(tiny_llm: SharedLLM, story: Document) -> None:
    selection = tiny_llm.select("Who rowed out?", story, budget=80)
    page = check(_html(selection))
    assert page.every("mark")
    scores = tiny_llm.score("Who rowed out?", story)[0]
    tree = pictures(selection.searched)[0].trees[0]
    first = int(story.forest.roots[tree.chunk])
    assert [n.score for n in tree.nodes] == scores[first : first + len(tree.nodes)].tolist()
    drawn = check(_html(story.forest))
    assert f"and {len(story.forest.roots) - 3} more trees" in drawn.text
    assert next(a.get("title") for a in drawn.every("span")) == "tokens 0 to 64, level 0"
    assert "Its keeper" in check(_html(story)).text
    empty = dataclasses.replace(selection, searched=())
    assert empty == selection  # what shows it takes no part
    check(_html(empty))


def test_an_answer_without_documents(tiny_llm: SharedLLM) -> None:
    answer = tiny_llm.answer("Hello", max_new_tokens=2)
    assert answer.pictures == ()
    assert check(_html(answer)).every("mark") == []


def test_hits_of_a_memory_count_in_the_whole_text(tmp_path: Path) -> None:
    llm = shared("llama", sizes={"max_position_embeddings": 8192})
    with TreeMemory(tmp_path / "memory", llm=llm, candidates=2) as memory:
        memory.add(
            [MemoryDocument(id="s", text=STORY, title="S"), MemoryDocument(id="f", text=FERRY)]
        )
        hits = memory.search("a brass telescope", k=3)
        answer = llm.answer("a brass telescope", memory, max_new_tokens=1)
    assert isinstance(hits, list)
    page = check(_html(hits))
    assert len(page.every("mark")) == len(hits) == 3
    assert pickle.loads(pickle.dumps(hits)) == hits
    whole = {"s": len(STORY), "f": len(FERRY)}
    for picture in (
        *pictures(hits.searched, apart=True),
        *answer.pictures,
    ):  # parts, because the memory is large
        assert picture.characters == whole[picture.document]
    texts = {"s": STORY, "f": FERRY}
    for one in ranked(answer.pictures):
        span, held = one.span, texts[one.picture.document]
        assert one.picture.text(span.start, span.end) == held[span.start : span.end]


def test_what_lies_far_from_passages_is_left_out() -> None:
    text = "".join(f"{n:06d} " for n in range(100_000))
    spans = [Span(start=s, end=s + 70, level=3, score=1.0, chosen="fine") for s in (0, 9000, 5**8)]
    excerpts = around(text, 0, spans)
    assert all(text[e.start : e.end] == e.text for e in excerpts)
    assert sum(len(e.text) for e in excerpts) < 15_000
    picture = Picture(
        document="d", title="t", source="", characters=len(text), passages=tuple(spans),
        excerpts=excerpts,
    )  # fmt: skip
    shown = results([picture])
    assert len(shown) < 40_000
    page = check(shown)
    assert "characters …" in page.text
    assert len(page.every("details")) == 5


def test_parts_of_a_document_become_one_picture() -> None:
    whole = {"document": "d", "title": "t", "source": "s", "characters": 100}
    span = Span(start=50, end=60, level=1, score=2.0, chosen="fine")
    part = Picture(**whole, passages=(span,), excerpts=(Excerpt(start=40, text="x" * 30),))  # type: ignore[arg-type]
    other = Picture(**whole, excerpts=(Excerpt(start=60, text="x" * 30),))  # type: ignore[arg-type]
    (picture,) = joined([other, part])
    assert picture.passages == (span,)
    assert picture.excerpts == (Excerpt(start=40, text="x" * 50),)
    assert picture.text(0, 10) == ""


def test_paragraphs_flow_and_keep_their_length() -> None:
    prose = "\n".join(["word " * 13 + "longer"] * 4)
    assert "\n" not in flowing(prose)
    code = prose + "\n\ncat one | grep two | sort | uniq --count | head -n 10\nls"
    for text in (prose, code, "short\nlines", "", "\n\n", "- a\n- b"):
        assert len(flowing(text)) == len(text)
    assert flowing(code).endswith("10\nls")
    assert flowing("short\nlines") == "short\nlines"


def test_numbers_above_a_strip_keep_apart() -> None:
    assert lanes([0.5, 0.51, 0.9, 0.52], apart=0.1, most=2) == [0, 1, 0, None]


def test_a_list_of_passages_says_where_it_cuts() -> None:
    text = "A word " * 50
    whole = {"document": "d", "title": "t", "source": "s", "characters": len(text)}
    excerpts = (Excerpt(start=0, text=text),)
    spans = (Span(start=0, end=6, level=1, score=2.0), Span(start=6, end=340, level=1, score=1.0))
    first, second = ranked([Picture(**whole, passages=spans, excerpts=excerpts)])  # type: ignore[arg-type]
    assert begins(first) == ("A word", "", "")
    assert re.fullmatch(r"…(A word )+A…", "".join(begins(second)))


def test_display_loads_neither_torch_nor_matplotlib() -> None:
    check_it = (
        "import sys, sharedllm.display.page, sharedllm.display.console; "
        "sys.exit(any(n in sys.modules for n in ('torch', 'numpy', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", check_it]).returncode == 0
