from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from sharedllm import Document, MemoryDocument, SharedLLM, TreeMemory
from sharedllm.errors import ConfigError, InputError, SectionError, TreeMemoryDamagedError
from sharedllm.generation.prompt import ABSENT
from sharedllm.memory import MEMORY_FILE
from sharedllm.whole.stream import WholeStream
from sharedllm.whole.whole import NOT_COMPARED

Make = Callable[..., SharedLLM]
FILLER = "The rain fell on the harbour and nobody spoke of it for a long while after that.\n\n"
MEMBERS = ("Ada Wren", "Boris Lund", "Carla Moss", "Dov Hale", "Elin Park")
QUESTION = "List all members of the Heron Society."


def club(members: tuple[str, ...] = MEMBERS, society: str = "Heron") -> str:
    told = [f"{name} is a member of the {society} Society.\n\n" for name in members]
    return FILLER * 4 + (FILLER * 6).join(told) + FILLER * 4


def name_members(question: str, text: str) -> str:
    """Name the members, and somebody who is not in the text."""
    found = re.findall(r"([A-Z]\w+ [A-Z]\w+) is a member of the Heron", text)
    return ", ".join([*found, "Nobody Here"]) if found else ABSENT


def read(llm: SharedLLM, text: str, title: str = "club") -> Document:
    return llm.remember(text, title=title, source=f"{title}.txt")


def test_a_list_names_each_thing_once_in_the_document_s_order_with_its_place(saying: Make) -> None:
    llm = saying(name_members)
    document = read(llm, club((*MEMBERS, "Ada Wren")))
    answer = llm.answer(QUESTION, document)
    assert answer.text == "\n".join(f"- {name}" for name in MEMBERS)
    assert answer.usage.scope == "list"
    assert "all of something" in answer.usage.scope_reason
    assert answer.unsupported == ()
    assert not answer.partial
    told = {citation.sought: citation for citation in answer.citations}
    assert set(told) == set(MEMBERS)
    for citation in answer.citations:
        assert document.text[citation.char_start : citation.char_end] == citation.text
        assert citation.sought in citation.text
        assert "Heron Society" in citation.text


def test_a_count_is_the_number_of_different_things(saying: Make) -> None:
    llm = saying(name_members)
    answer = llm.answer("Count the members of the Heron Society.", read(llm, club()))
    assert answer.text.splitlines() == ["5", *(f"- {name}" for name in MEMBERS)]
    assert answer.unsupported == ()
    assert llm.answer("Count the members of the Heron Society.", read(llm, FILLER * 40)).text == "0"


@pytest.mark.parametrize(
    ("question", "count"),
    [
        ("How many times is Ada Wren mentioned?", 2),
        ('How often does the word "RAIN" occur?', 8),
        ("How often is it said that Boris Lund is a member of the Heron Society?", 1),
    ],
)
def test_occurrences_are_counted_without_a_model(saying: Make, question: str, count: int) -> None:
    llm = saying(lambda question, text: pytest.fail("asked"))
    names = ("Ada Wren", "Boris Lund", "Ada Wren")
    document = read(llm, FILLER.join(f"{n} is a member of the Heron Society.\n\n" for n in names))
    document = read(llm, document.text + FILLER * 6)
    assert llm.answer(question, document).text == str(count)


def test_the_second_question_costs_nothing_where_answers_are_kept(saying: Make) -> None:
    llm = saying(name_members)
    document = read(llm, club())
    first = llm.answer(QUESTION, document)
    again = llm.answer(QUESTION, document)
    assert again.text == first.text
    assert first.usage.parts_read == again.usage.parts_kept > 0
    assert again.usage.prompt_tokens == again.usage.parts_read == 0


def test_limits_give_a_partial_answer_that_says_so(saying: Make) -> None:
    llm = saying(name_members)
    document = read(llm, club())
    few = llm.answer(QUESTION, document, max_chunks=2)
    assert few.partial
    assert few.finish_reason == "length"
    assert few.usage.parts_read == 2
    assert few.usage.parts_left >= len(MEMBERS) - 2
    assert "parts unread: raise max_chunks" in few.summary()
    none = llm.answer(QUESTION, read(llm, club(MEMBERS[::-1])), max_seconds=0)
    assert none.partial
    assert none.text == ABSENT
    assert llm.answer(QUESTION, document).text.count("\n") == len(MEMBERS) - 1


def test_dropping_the_stream_ends_the_reading(saying: Make) -> None:
    llm = saying(name_members)
    document = read(llm, club() * 3)
    stream = llm.stream(QUESTION, document)
    assert isinstance(stream, WholeStream)
    assert stream.seconds_left is None
    assert next(stream) == ""
    assert 0 < stream.done < stream.total
    assert stream.seconds_left is not None
    done, total = stream.done, stream.total
    del stream
    again = llm.answer(QUESTION, document)
    assert again.usage.parts_kept >= done  # what was read by then is not read again
    assert again.usage.parts_read <= total - done


def test_progress_counts_parts(saying: Make) -> None:
    llm = saying(name_members)
    seen: list[tuple[int, int]] = []
    answer = llm.answer(
        QUESTION, read(llm, club()), progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (answer.usage.parts_read, answer.usage.parts_read)


def first_sentence(question: str, text: str) -> str:
    told = [line for line in text.splitlines() if "member" in line]
    return " ".join([*told[:1], "Queen Zog was here."]) if told else "It rained on the harbour."


@pytest.mark.parametrize("judges", [False, True])
def test_a_summary_keeps_what_the_text_bears_with_its_places(saying: Make, judges: bool) -> None:
    llm = saying(first_sentence, judges=judges)
    document = read(llm, club())
    answer = llm.answer("Summarise the text.", document, max_new_tokens=200)
    assert answer.usage.scope == "summary"
    assert "Zog" not in answer.text or not judges
    assert answer.text.count("Ada Wren is") == 1  # parts that share a sentence say it once
    assert "Ada Wren is a member of the Heron Society." in answer.text
    cited = {citation.text for citation in answer.citations}
    assert any("Ada Wren" in text for text in cited)
    again = llm.answer("What are the main points?", document, max_new_tokens=200)
    assert again.usage.parts_read == 0
    assert again.usage.parts_kept == answer.usage.parts_read


def test_a_comparison_puts_both_sides_and_compares_their_numbers(saying: Make) -> None:
    llm = saying(lambda question, text: pytest.fail("asked"))
    text = FILLER * 6 + "The tower of Ashby is 41 feet high.\n\n" + FILLER * 9
    text += "The tower of Corwen is 173 feet high.\n\n" + FILLER * 5
    document = read(llm, text)
    asked = "Which is higher, the tower of Ashby or the tower of Corwen?"
    answer = llm.answer(asked, document, scope="whole")
    assert answer.text == "the tower of Corwen (173; the tower of Ashby: 41)"
    assert {c.text for c in answer.citations} >= {"The tower of Ashby is 41 feet high."}
    asked = "Compare the tower of Ashby and the tower of Dunmore: which is higher?"
    said = llm.answer(asked, document).text
    assert said == "Nothing was found about the tower of Dunmore."


def test_a_comparison_that_numbers_do_not_decide_is_read(saying: Make) -> None:
    llm = saying(lambda question, text: "red" if "Ashby" in text and "Corwen" in text else "none")
    text = FILLER * 6 + "The tower of Ashby is painted red.\n\n" + FILLER * 9
    text += "The tower of Corwen is painted blue.\n\n" + FILLER * 5
    asked = "Compare the tower of Ashby and the tower of Corwen."
    answer = llm.answer(asked, read(llm, text))
    assert answer.text == "red"
    assert len(answer.citations) == 2


def test_a_memory_is_read_document_by_document_under_its_filter(
    saying: Make, tmp_path: Path
) -> None:
    llm = saying(first_sentence)
    with TreeMemory(tmp_path / "m", llm=llm) as memory:
        for title, names in (("one", MEMBERS[:2]), ("two", MEMBERS[2:])):
            memory.add(MemoryDocument(id=title, title=title, text=club(names)))
        answer = llm.answer("Summarise the documents.", memory, max_new_tokens=200)
        assert re.findall(r"^(\w+): ", answer.text, re.MULTILINE) == ["one", "two"]
        assert {citation.document for citation in answer.citations} == {"one", "two"}
        again = llm.answer("Summarise the documents.", memory, max_new_tokens=200)
        assert again.usage.parts_read == 0


def test_what_passages_can_hold_is_left_to_them(saying: Make) -> None:
    llm = saying(name_members)
    document = read(llm, club())
    answer = llm.answer("Who is the first member of the Heron Society?", document, budget=96)
    assert answer.usage.scope == "passages"
    assert answer.usage.parts_read == 0
    forced = llm.answer("Who is in the Heron Society?", document, scope="whole")
    assert forced.usage.scope == "list"
    plain = llm.answer(QUESTION, document, scope="passages", budget=96)
    assert plain.usage.scope == "passages"
    assert "'passages'" in plain.usage.scope_reason


def test_a_document_of_one_chunk_is_read_as_passages(saying: Make) -> None:
    llm = saying(name_members)
    answer = llm.answer(
        QUESTION, read(llm, "Ada Wren is a member of the Heron Society."), budget=96
    )
    assert answer.usage.scope == "passages"
    assert "one chunk" in answer.usage.scope_reason


def test_batches_hold_both_kinds(saying: Make) -> None:
    llm = saying(name_members)
    document = read(llm, club())
    questions = [QUESTION, "Who spoke of the rain?", QUESTION]
    first, second, third = llm.answer_batch(questions, document, budget=96)
    assert [a.usage.scope for a in (first, second, third)] == ["list", "passages", "list"]
    assert first.text == third.text


def test_the_whole_is_refused_where_it_cannot_be(saying: Make) -> None:
    llm = saying(name_members)
    document = read(llm, club())
    with pytest.raises(ConfigError, match="scope is 'all'"):
        llm.answer(QUESTION, document, scope="all")
    with pytest.raises(ConfigError, match=r"prepare\(\) makes one prompt"):
        llm.prepare(QUESTION, document, scope="whole")
    with pytest.raises(ConfigError, match="follow a grammar"):
        llm.answer(QUESTION, document, scope="whole", grammar='{"grammars": []}')
    with pytest.raises(InputError, match="no document to search"):
        llm.answer(QUESTION, scope="whole")
    assert llm.answer(QUESTION).usage.scope == "passages"


def novel() -> str:
    chapters = [
        f"CHAPTER {number}\n\n{club((name,))}"
        for number, name in zip(("I", "II", "III", "IV"), MEMBERS, strict=False)
    ]
    return "\n\n".join(chapters)


def test_a_chapter_that_a_question_names_is_read_alone(saying: Make) -> None:
    llm = saying(first_sentence)
    document = read(llm, novel())
    assert len(document.outline) == 4
    answer = llm.answer("Summarise chapter 3.", document, max_new_tokens=60)
    assert "Carla Moss" in answer.text
    assert not any(name in answer.text for name in ("Ada Wren", "Dov Hale"))
    assert {citation.section for citation in answer.citations} == {"CHAPTER III"}
    named = llm.answer("Summarise it all.", document, section="chapter 2", max_new_tokens=60)
    assert "Boris Lund" in named.text
    assert "Ada Wren" not in named.text


def test_two_chapters_are_compared_one_after_the_other(saying: Make) -> None:
    llm = saying(first_sentence, judges=True)
    document = read(llm, novel())
    answer = llm.answer("Compare chapter 2 and 4.", document, max_new_tokens=200)
    assert re.findall(r"^(CHAPTER \w+): ", answer.text, re.MULTILINE) == [
        "CHAPTER II",
        "CHAPTER IV",
    ]
    assert "Boris Lund" in answer.text
    assert "Dov Hale" in answer.text


def test_a_section_that_is_not_there_is_named_with_the_nearest(saying: Make) -> None:
    llm = saying(first_sentence)
    document = read(llm, novel())
    with pytest.raises(SectionError, match="CHAPTER III"):
        llm.answer("Summarise it all.", document, section="chapter 9")
    with pytest.raises(SectionError, match="no outline"):
        llm.answer("Summarise it all.", read(llm, FILLER * 40), section="chapter 1")
    whole = llm.answer("Summarise chapter 9.", document, max_new_tokens=200)
    assert "Ada Wren" in whole.text  # it reads all where no such chapter is known, and says so
    assert whole.text.endswith("\n\nNo chapter 9 was found; all of the text was read.")
    one = llm.answer("Compare chapter 2 and 99.", document, max_new_tokens=60)
    assert "Boris Lund" in one.text
    assert one.text.endswith("\n\nNo chapter 99 was found.")
    plain = llm.answer("Count the members in chapter 8 and 9.", read(llm, FILLER * 40))
    assert plain.text.splitlines()[0] == "0"
    assert plain.text.endswith("No chapter 8 and no chapter 9 was found; all of the text was read.")


def test_a_memory_keeps_what_was_read_on_disk(saying: Make, tmp_path: Path) -> None:
    llm = saying(name_members)
    with TreeMemory(tmp_path / "m", llm=llm) as memory:
        memory.add(MemoryDocument(id="club", text=club()))
        revision = memory.revision
        first = llm.answer(QUESTION, memory)
        assert memory.revision == revision
        assert not memory.verify().problems
    with TreeMemory(tmp_path / "m", llm=llm) as memory:  # as another process would
        again = llm.answer(QUESTION, memory)
        assert again.text == first.text
        assert again.usage.parts_kept == first.usage.parts_read > 0
        assert again.usage.parts_read == 0
        path = memory.path / MEMORY_FILE
        memory.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE notes SET said = 'Mr. Nobody'")
        connection.commit()
    with TreeMemory(tmp_path / "m", llm=llm) as memory:
        assert {problem.table for problem in memory.verify().problems} == {"notes"}
        with pytest.raises(TreeMemoryDamagedError, match="verify --repair"):
            llm.answer(QUESTION, memory)
        memory.verify(repair=True)
        assert llm.answer(QUESTION, memory).text == first.text
        memory.delete("club")
        memory.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM notes").fetchone() == (0,)


def test_versions_of_a_text_are_compared_without_a_model(saying: Make) -> None:
    llm = saying(lambda question, text: pytest.fail("asked"))
    lines = [
        f"Clause {n} says that the tenant pays {n} pounds for the {n}th room." for n in range(30)
    ]
    old = read(llm, "\n\n".join(lines), "old")
    changed = [
        *lines[:5],
        lines[5].replace("5 pounds", "9 pounds"),
        *lines[6:29],
        "Dogs are allowed.",
    ]
    new = read(llm, "\n\n".join(changed), "new")
    answer = llm.answer("What changed between the two contracts?", [old, new])
    assert answer.usage.scope == "comparison"
    assert answer.text.splitlines() == [
        f"- old: {lines[5]}",
        f"  new: {changed[5]}",
        f"- old: {lines[29]}",
        "- new: Dogs are allowed.",
    ]
    assert {c.document for c in answer.citations} == {old.id, new.id}
    same = llm.answer(
        "What changed between the two contracts?", [old, read(llm, old.text + "\n", "o")]
    )
    assert same.text == "There is no difference."


def test_short_texts_of_which_most_has_changed_are_versions_too(saying: Make) -> None:
    llm = saying(lambda question, text: pytest.fail("asked"))
    text = (
        "The rent is 1,850 euros a month. Dogs are allowed. Notice is six months. "
        "The lease begins on 1 March 2024."
    )
    changed = text.replace("1,850", "1,990").replace("six", "three").replace("March", "April")
    old, new = read(llm, text, "old"), read(llm, changed, "new")
    told = llm.answer("What do these two documents disagree about?", [old, new]).text
    assert told.count("- old") == 3
    assert "Dogs" not in told


def test_other_documents_are_compared_by_their_notes(saying: Make) -> None:
    def say(question: str, text: str) -> str:
        if "Compare" in question:
            return "They differ." if "one:" in text and "two:" in text else "Only one."
        return first_sentence(question, text)

    llm = saying(say)
    documents = [read(llm, club(MEMBERS[:2]), "one"), read(llm, club(MEMBERS[2:]), "two")]
    documents[1] = read(
        llm, documents[1].text.replace(FILLER.strip(), "The sun shone on all."), "two"
    )
    answer = llm.answer("Compare the two documents.", documents, max_new_tokens=60)
    assert answer.text == "They differ."
    small = saying(say, judges=True)
    told = small.answer("Compare the two documents.", documents, max_new_tokens=60).text
    assert told.startswith(f"{NOT_COMPARED}\n\none: ")
    assert "\n\ntwo: " in told
    alone = small.answer("What do these documents disagree about?", documents[0]).text
    assert alone.startswith(NOT_COMPARED)


@pytest.mark.parametrize("scorer", ["bm25", "recency"])
def test_every_scorer_finds_all_of_a_list(saying: Make, scorer: str) -> None:
    llm = saying(name_members)
    text = club() + FILLER * 200  # the latest text, which recency likes best, names nobody
    answer = llm.answer(QUESTION, read(llm, text), scorer=scorer)
    assert answer.text == "\n".join(f"- {name}" for name in MEMBERS)
