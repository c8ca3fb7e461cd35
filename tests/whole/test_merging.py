from __future__ import annotations

import re

import pytest

from sharedllm.whole.kinds import kind_of_things, of_kind
from sharedllm.whole.merging import named_in, names_of, things_of
from sharedllm.whole.parts import Part
from sharedllm.whole.reading import Said
from tests.models import shared

QUESTION = "List all that are named."


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


def things(text: str, *names: str, question: str = QUESTION) -> list[str]:
    """The things of answers that name `names`, one part for all."""
    document = shared("llama").remember(text)
    part = Part(document=0, node=0, chunk=0, start=0, end=len(document), score=0.0)
    said = [Said(part=part, text=name) for name in names]
    found = of_kind(things_of(said, [document], question), [document], question)
    return [thing.text for thing in found]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Mr. Gillat met Johnny Gillat, and Gillat laughed.", ["Johnny Gillat"]),
        ("Mr. Henchard saw Henchard.", ["Mr. Henchard"]),
        ("Mrs. Newson met Newson.", ["Mrs. Newson", "Newson"]),
        ("Susan Lund met Ole Lund; Lund left.", ["Susan Lund", "Lund", "Ole Lund"]),
        ("Captain Polk left; the Captain slept.", ["Captain Polk"]),
        ("Dr. Ada Wren and Ada Wren and Wren.", ["Dr. Ada Wren"]),
        ("Miss Lund and Mr. Lund danced.", ["Miss Lund", "Mr. Lund"]),
        ("Captain Lund and Dr. Lund met.", ["Captain Lund", "Dr. Lund"]),
    ],
)
def test_names_of_one_bearer_are_joined(text: str, names: list[str]) -> None:
    given = re.findall(r"(?:\w+\. |Captain |Miss )?[A-Z]\w+(?: Gillat| Lund| Wren)?", text)
    assert things(text, *given) == names


NOVEL = (
    "Julia went to Holland. In Holland Julia said that Mr. Gillat lived near Bath. Scythes, hoes "
    "and rakes lay in the window. \u201cLord, what a day,\u201d cried Anna. Holland is flat. Julia "
    "laughed at Violet. Violet sat in her chair. Near Windsor Castle the train for Bath left. "
    "There was Elin Park, and beside her Dan Hill looked at Elin Park. Elin Park smiled."
)
PEOPLE = ["Julia", "Mr. Gillat", "Anna", "Violet", "Elin Park", "Dan Hill"]
PLACES = ["Holland", "Bath", "Windsor Castle"]
NAMED = (
    *("Julia", "Holland", "Mr. Gillat", "Bath", "Scythes", "Lord", "Anna", "Violet", "Nobody"),
    *("Windsor Castle", "lay in Holland", "Elin Park", "Dan Hill"),
)


@pytest.mark.parametrize(
    ("question", "names"),
    [
        ("List the characters.", PEOPLE),
        ("Who are the main persons of the book?", PEOPLE),
        ("Count the people.", PEOPLE),
        ("List all places.", PLACES),
        ("Which towns does it name?", PLACES),
    ],
)
def test_what_a_text_treats_as_something_else_is_left_out(question: str, names: list[str]) -> None:
    assert things(NOVEL, *NAMED, question=question) == names


@pytest.mark.parametrize("question", ["List the people.", "List all places."])
def test_names_without_capitals_are_kept(question: str) -> None:
    text = "The list: al-Biruni; van Gogh; O'Brien; de la Cruz."
    for name in ("al-Biruni", "van Gogh", "O'Brien", "de la Cruz"):
        assert things(text, name, question=question) == [name]


@pytest.mark.parametrize(
    "text",
    ["Ada\nBoris\nCarla\n", "- Ada\n- Boris\n- Carla", "Ada, baker\nBoris, smith\nCarla, cook\n",
     "Name,trade\nAda,baker\nBoris,smith\nCarla,cook", "Ada. Boris. Carla."],
)  # fmt: skip
@pytest.mark.parametrize("question", ["List the people.", "List all places."])
def test_names_without_sentences_are_kept(text: str, question: str) -> None:
    assert things(text, "Ada", "Boris", "Carla", question=question) == ["Ada", "Boris", "Carla"]


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("List the characters. Name all of them.", "persons"),
        ("Who are the main characters?", "persons"),
        ("How many people are named?", "persons"),
        ("Find all the names of people mentioned in the text", "persons"),
        ("List the towns where people live", "places"),
        ("Give me a list of the places.", "places"),
        ("List all members of the Heron Society.", None),
        ("List the things that people say about towns.", None),
        ("Which ships were built in towns?", None),
        ("Who are the parties to the agreement?", None),
        ("Who signed it?", None),
        ("List all special characters that a password may have.", None),
        ("List all figures.", None),
        ("", None),
    ],
)
def test_the_kind_of_things_that_a_question_lists(question: str, kind: str | None) -> None:
    assert kind_of_things(question) == kind
