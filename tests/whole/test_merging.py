from __future__ import annotations

import pytest

from sharedllm.whole.merging import named_in, names_of


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        ("Ada Wren, Boris Lund and Carla Moss.", ["Ada Wren", "Boris Lund", "Carla Moss"]),
        ("1. Ada Wren\n2. Boris Lund: a baker\n", ["Ada Wren", "Boris Lund"]),
        ("Here they are:\n- **Ada Wren** (1849)\n- Boris Lund\n", ["Ada Wren", "Boris Lund"]),
        ("a kettle; a comb", ["a kettle", "a comb"]),
        ("tea, milk, and sugar", ["tea", "milk", "sugar"]),
        ('"Ada Wren"', ["Ada Wren"]),
        ("3 June, 14 July", ["3 June", "14 July"]),
        ("", []),
        ("Müller und Söhne\n", ["Müller und Söhne"]),
    ],
)
def test_an_answer_is_divided_into_what_it_names(answer: str, names: list[str]) -> None:
    assert list(named_in(answer)) == names


@pytest.mark.parametrize(
    ("question", "names"),
    [
        ("List all members of the Heron Society.", {"heron", "society"}),
        ("Which ships were built at the Corwen yard in 1841?", {"corwen", "1841"}),
        ("List the characters. Name all of them.", set()),
        ("LIST ALL CHARACTERS OF THE NOVEL", set()),
        ("List All Characters Of The Novel", set()),
        ("Who met Ann's sister?", {"ann"}),
    ],
)
def test_the_names_that_a_question_is_about(question: str, names: set[str]) -> None:
    assert names_of(question) == names
