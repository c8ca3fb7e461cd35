"""Long text without marks: cut where its content says so, known texts found word for word."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharedllm_integrations import known
from sharedllm_integrations.known import Known
from sharedllm_integrations.origins import known_text
from sharedllm_integrations.pasted import EDGE, LEAST, Pasted, cut

WORDS = "keeper lamp reef ferry village tower clockwork winter ship owner telescope".split()


def story(seed: int, paragraphs: int = 120) -> str:
    draw = random.Random(seed)
    return "\n\n".join(
        " ".join(draw.choice(WORDS) for _ in range(draw.randint(20, 80))).capitalize() + "."
        for _ in range(paragraphs)
    )


def joined(pieces: list[str | Pasted]) -> str:
    return "".join(p.text if isinstance(p, Pasted) else p for p in pieces)


@given(st.text(max_size=200), st.integers(1, 300))
def test_short_text_stays(text: str, long_text: int) -> None:
    assert list(cut(text, long_text)) == ([text] if text else [])


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost(seed: int) -> None:
    text = f"Read this:\n{story(seed)}\n\nWho is the keeper?"
    pieces = list(cut(text, 4000))
    assert joined(pieces) == text
    assert isinstance(pieces[0], str)
    assert pieces[0].startswith("Read this:")
    assert isinstance(pieces[-1], str)
    assert pieces[-1].endswith("Who is the keeper?")
    assert max(len(p) for p in pieces if isinstance(p, str)) <= EDGE
    assert all(len(p.text) >= LEAST for p in pieces[1:-2] if isinstance(p, Pasted))


def test_a_text_of_one_line_is_one_document() -> None:
    text = "word " * 4000
    pieces = list(cut(text, 4000))
    assert joined(pieces) == text
    assert sum(isinstance(piece, Pasted) for piece in pieces) == 1


def test_a_document_among_others_gives_mostly_the_same_pieces() -> None:
    document = story(1, 600)
    first = set(cut(f"{story(2)}\n\n{document}\n\nWhy?", 4000))
    second = set(cut(f"{document}\n\n{story(3)}\n\nWhen?", 4000))
    same = sum(len(p.text) for p in first & second if isinstance(p, Pasted))
    assert same > 0.7 * len(document)


def test_known_texts_are_found_where_they_stand() -> None:
    one, other = story(1, 5), story(2, 5)
    texts = [known_text(f"\n{one}\n", "1" * 32), known_text(other, "2" * 32)]
    prompt = f"Read:\n{other}\n\n{one}\nand answer."
    found = list(known.find(prompt, texts))
    assert found == [
        "Read:\n",
        Known("2" * 32, other),
        "\n\n",
        Known("1" * 32, one),
        "\nand answer.",
    ]


def test_a_changed_text_is_not_known() -> None:
    one = story(1, 5)
    prompt = one[:-2] + "!."
    assert list(known.find(prompt, [known_text(one, "1" * 32)])) == [prompt]


def test_of_two_that_overlap_the_longer_is_found() -> None:
    whole = story(1, 10)
    part = whole[: len(whole) // 2].strip()
    texts = [known_text(part, "1" * 32), known_text(whole, "2" * 32)]
    assert list(known.find(whole, texts)) == [Known("2" * 32, whole)]
