"""Long text without references: cut where its content says so, known texts found word for word."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharedllm_integrations.long_text import EDGE, LEAST, KnownText, LongText, documents_in

WORDS = "keeper lamp reef ferry village tower clockwork winter ship owner telescope".split()


def story(seed: int, paragraphs: int = 120) -> str:
    draw = random.Random(seed)
    return "\n\n".join(
        " ".join(draw.choice(WORDS) for _ in range(draw.randint(20, 80))).capitalize() + "."
        for _ in range(paragraphs)
    )


def joined(pieces: list[str | LongText]) -> str:
    return "".join(p.text if isinstance(p, LongText) else p for p in pieces)


@given(st.text(max_size=200), st.integers(1, 300))
def test_short_text_stays(text: str, long_text: int) -> None:
    assert list(documents_in(text, long_text, ())) == ([text] if text else [])


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost(seed: int) -> None:
    text = f"Read this:\n{story(seed)}\n\nWho is the keeper?"
    pieces = list(documents_in(text, 4000, ()))
    assert joined(pieces) == text
    assert isinstance(pieces[0], str)
    assert pieces[0].startswith("Read this:")
    assert isinstance(pieces[-1], str)
    assert pieces[-1].endswith("Who is the keeper?")
    assert max(len(p) for p in pieces if isinstance(p, str)) <= EDGE
    assert all(len(p.text) >= LEAST for p in pieces[1:-2] if isinstance(p, LongText))


def test_a_text_of_one_line_is_one_document() -> None:
    text = "word " * 4000
    pieces = list(documents_in(text, 4000, ()))
    assert joined(pieces) == text
    assert sum(isinstance(piece, LongText) for piece in pieces) == 1


def test_a_document_among_others_gives_mostly_the_same_pieces() -> None:
    document = story(1, 600)
    first = set(documents_in(f"{story(2)}\n\n{document}\n\nWhy?", 4000, ()))
    second = set(documents_in(f"{document}\n\n{story(3)}\n\nWhen?", 4000, ()))
    same = sum(len(p.text) for p in first & second if isinstance(p, LongText))
    assert same > 0.7 * len(document)


def found(text: str, *known: KnownText) -> list[object]:
    """Running text, and the documents whose texts were found."""
    pieces = documents_in(text, 1, known)
    return [p if isinstance(p, str) or p.known is None else p.known.document for p in pieces]


def test_known_texts_are_found_where_they_stand() -> None:
    one, other = story(1, 5), story(2, 5)
    texts = [KnownText.of(f"\n{one}\n", 1), KnownText.of(other, 2)]
    prompt = f"Read:\n{other}\n\n{one}\nand answer."
    assert found(prompt, *texts) == ["Read:\n", 2, "\n", 1, "and answer."]
    assert found(f"Read: {one} Answer.", *texts) == ["Read: ", 1, " Answer."]


def test_a_changed_text_is_not_known() -> None:
    one = story(1, 3)
    assert 1 not in found(one[:-2] + "!.", KnownText.of(one, 1))


def test_of_two_that_overlap_the_longer_is_found() -> None:
    whole = story(1, 10)
    part = whole[: len(whole) // 2].strip()
    assert found(whole, KnownText.of(part, 1), KnownText.of(whole, 2)) == [2]
