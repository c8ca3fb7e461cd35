"""A tree memory: what goes in comes out, costs nothing twice, and answers as if just read."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from sharedllm import MemoryDocument, SharedLLM, TreeMemory
from sharedllm.errors import ConfigError, DocumentError, InputError, SharedLLMError
from sharedllm.memory.resolve import per_question
from tests.conftest import DOCUMENTS, Make
from tests.texts import FERRY, GARDEN, STORY

QUICK: dict[str, Any] = {"max_new_tokens": 3, "budget": 200}


def size(memory: TreeMemory) -> int:
    return sum(path.stat().st_size for path in memory.path.glob("memory.sqlite*"))


def test_what_goes_in_comes_out(memory: TreeMemory) -> None:
    assert [memory.get(d.id) for d in DOCUMENTS] == list(DOCUMENTS)
    assert len(memory) == 3
    assert "story" in memory
    assert "Story" not in memory
    story = memory.list()[0]
    assert (story.id, story.title, story.source) == ("story", "The lighthouse", "lighthouse.txt")
    assert (story.characters, story.tokens) == (len(STORY), len(STORY.encode()))
    assert story.chunks == -(-story.tokens // 64)
    assert story.bytes > story.tokens
    assert memory.verify().clean


@pytest.mark.parametrize("keep", ["text", "leaves", "coarse", "all"])
@pytest.mark.parametrize("leaves", ["text", "kv"])
@pytest.mark.parametrize("coarse", ["none", "all"])
def test_answers_are_those_of_documents_just_read(
    make: Make, llm: SharedLLM, keep: str, leaves: str, coarse: str
) -> None:
    memory = make(keep=keep, kv="exact", vectors="exact")
    memory.add(DOCUMENTS)
    options = {**QUICK, "leaves": leaves, "coarse": coarse}
    fresh = [llm.remember(d.text, title=d.title or "document", source=d.source) for d in DOCUMENTS]
    expected = llm.answer("Who kept the light?", fresh, **options)
    memory.close()
    answer = llm.answer("Who kept the light?", make(keep=None), **options)
    assert answer.text == expected.text
    assert answer.usage == expected.usage
    assert [(c.text, c.char_start, c.score) for c in answer.citations] == [
        (c.text, c.char_start, c.score) for c in expected.citations
    ]
    assert {c.document for c in answer.citations} <= {"story", "ferry", "garden"}


def test_stored_nodes_are_those_encoded_now(make: Make, llm: SharedLLM) -> None:
    memory = make(keep="all", kv="exact")
    memory.add(DOCUMENTS)
    stored = memory.documents_for("the lamp", llm)[0]
    fresh = llm.remember(STORY)
    asked = [stored.request(int(root), 8) for root in stored.forest.roots]
    level_1 = [n for n in range(len(stored.forest)) if stored.forest.level[n] == 1]
    asked += [stored.request(n, 4) for n in level_1]
    assert all(one in stored.nodes for one in asked)
    assert stored.request(int(stored.forest.leaves[0]), 1) not in stored.nodes
    now = llm.encoder.encode(fresh, asked)
    for one in asked:
        kept = stored.nodes.get(one)
        assert kept is not None
        assert torch.allclose(kept.keys, now[one].keys, atol=1e-5)
        assert torch.allclose(kept.values, now[one].values, atol=1e-5)


def test_the_same_text_costs_nothing_twice(memory: TreeMemory) -> None:
    chunks = memory.verify().chunks
    memory.add(DOCUMENTS)
    memory.add(MemoryDocument(id="again", text=STORY, title="A copy"))
    assert memory.verify().chunks == chunks
    memory.delete("story")
    assert memory.verify().chunks == chunks
    assert memory.get("again").text == STORY
    memory.delete("again")
    assert memory.verify().chunks < chunks


def test_appending_encodes_only_what_is_new(
    memory: TreeMemory, llm: SharedLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    vectors = llm.encoder.lower.vectors

    def counted(ids: Any, *args: Any, **options: Any) -> torch.Tensor:
        read.append(len(ids))
        return vectors(ids, *args, **options)

    monkeypatch.setattr(llm.encoder.lower, "vectors", counted)
    memory.update(MemoryDocument(id="story", text=STORY + FERRY))
    whole = len(STORY.encode()) // 64 * 64
    assert sum(read) == len((STORY + FERRY).encode()) - whole
    assert memory.get("story").text == STORY + FERRY
    read.clear()
    memory.update(MemoryDocument(id="story", text=STORY + FERRY, title="Renamed"))
    assert read == []
    assert memory.list({"id": "story"})[0].title == "Renamed"


@pytest.mark.parametrize("operation", ["add", "update"])
def test_of_several_documents_those_before_a_bad_one_are_stored(
    memory: TreeMemory, operation: str
) -> None:
    """The promise of add(), whatever is wrong with the bad one."""
    good = [MemoryDocument(id=name, text=f"{FERRY} {name}") for name in ("first", "last")]
    bad = {
        "white": MemoryDocument(id="white", text=" \n", title="A page"),
        "story": MemoryDocument(id="story", text="another text"),
        "first": MemoryDocument(id="first", text="a second one of this id"),
        "nobody": MemoryDocument(id="nobody", text=FERRY),
    }
    if operation == "update":
        memory.add([*good, MemoryDocument(id="white", text="white")])
        good = [MemoryDocument(id=d.id, text=d.text + " again") for d in good]
        wrong = ("white", "nobody")
    else:
        wrong = ("white", "story", "first")
    for name in wrong:
        with pytest.raises(DocumentError, match=rf"^document '{name}'.*, number 2 of 3: .*stored"):
            getattr(memory, operation)([good[0], bad[name], good[1]])
        assert memory.get("first") == good[0]
        if operation == "add":
            assert "last" not in memory
            memory.delete("first")
        else:
            assert memory.get("last") != good[1]
        assert memory.verify().clean


def test_documents_that_are_too_long_are_refused() -> None:
    for given, said in (
        ({"title": "t" * 4097}, "title has 4,097 characters; allowed are at most 4,096: shorten"),
        ({"source": "s" * 5000}, "source has 5,000 characters"),
        ({"metadata": {"a": "m" * (1 << 24)}}, "metadata takes 16,777,225 characters"),
    ):
        with pytest.raises(InputError, match=said):
            MemoryDocument(text="text", **given)  # type: ignore[arg-type]


def test_add_and_update_say_what_they_want(memory: TreeMemory) -> None:
    with pytest.raises(DocumentError, match="already holds a document 'story'"):
        memory.add(MemoryDocument(id="story", text=FERRY))
    with pytest.raises(DocumentError, match="no document 'nobody' to update"):
        memory.update(MemoryDocument(id="nobody", text=FERRY))
    with pytest.raises(DocumentError, match="empty or only white space"):
        memory.add(MemoryDocument(id="empty", text="  "))
    with pytest.raises(DocumentError, match="no document 'nobody'"):
        memory.get("nobody")
    with pytest.raises(DocumentError, match="no document 'nobody'"):
        memory.delete(["story", "nobody"])
    with pytest.raises(InputError, match="1 of 6 documents is a str; give MemoryDocument"):
        memory.add("a text")  # type: ignore[arg-type]
    assert "story" in memory


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"text": 3}, "text is 3; it must be a str"),
        ({"text": "a\ud800"}, "half of a surrogate pair"),
        ({"text": "a", "id": "a\nb"}, "printable"),
        ({"text": "a", "id": "x" * 2000}, "1 to 1024"),
        ({"text": "a", "title": "a\0"}, "NUL"),
        ({"text": "a", "metadata": [1]}, "give a mapping"),
        ({"text": "a", "metadata": {1: 2}}, "every key must be a str"),
        ({"text": "a", "metadata": {"a": {1, 2}}}, "cannot be written as JSON"),
        ({"text": "a", "metadata": {"a": float("nan")}}, "cannot be written as JSON"),
    ],
)
def test_documents_that_cannot_be_stored(values: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        MemoryDocument(**values)


def test_ids_without_a_name_follow_the_content() -> None:
    one, two = MemoryDocument(text="a", title="b"), MemoryDocument(text="a", title="b")
    assert one.id == two.id
    assert len({one.id, MemoryDocument(text="ab").id, MemoryDocument(text="a").id}) == 3


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, ["story", "ferry", "garden"]),
        ({"place": "Penmor"}, ["story", "ferry"]),
        ({"place": "Penmor", "year": 1871}, ["story"]),
        ({"year": {"gt": 1880}}, ["garden"]),
        ({"year": {"gte": 1871, "lt": 1900}}, ["story"]),
        ({"place": {"gt": 5}}, []),
        ({"id": ["ferry", "garden"]}, ["ferry", "garden"]),
        ({"title": {"ne": "The ferry"}}, ["story", "garden"]),
        ({"place": {"ne": "Penmor"}}, ["garden"]),
        ({"x') OR 1 --": 1}, []),
        ({"place": {"nin": ["Penmor", "Rome"]}}, ["garden"]),
        ({"title": {"nin": ["The ferry"]}}, ["story", "garden"]),
        ({"place": {"contains": "nmo"}}, ["story", "ferry"]),
        ({"title": {"contains": "ferry"}}, ["ferry"]),
        ({"year": {"contains": 1871}}, []),
        ({"year": {"empty": True}}, ["ferry"]),
        ({"title": {"empty": False}}, ["story", "ferry"]),
        ({"$or": [{"year": 1902}, {"title": "The ferry"}]}, ["ferry", "garden"]),
        ({"$or": [{"year": 1902}, {"year": 1871}], "place": "Penmor"}, ["story"]),
        ({"$and": [{"place": "Penmor"}, {"$not": {"year": 1871}}]}, ["ferry"]),
        ({"$not": {"year": 1902}}, ["story", "ferry"]),
    ],
)
def test_filters(memory: TreeMemory, given: dict[str, Any] | None, found: list[str]) -> None:
    assert [document.id for document in memory.list(given)] == found


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["year"], "give a mapping"),
        ({3: 1}, "a field is a str"),
        ({"year": {"above": 3}}, "allowed: gt, gte"),
        ({"year": {"gt": [3]}}, "compare with a number or a str"),
        ({"year": None}, "str, booleans, finite numbers"),
        ({"year": 1 << 64}, "64 bits"),
        ({"year": {"gt": float("nan")}}, "finite"),
        ({"place": "\ud835"}, "surrogate"),
        ({"$or": {"year": 1902}}, "a list of filters"),
        ({"$or": []}, "a list of filters"),
        ({"$not": 3}, "give a mapping"),
        ({"year": {"empty": 1}}, "give True or False"),
        (functools.reduce(lambda inner, _: {"$not": inner}, range(40), {}), "levels"),
    ],
)
def test_filters_of_another_form(memory: TreeMemory, given: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        memory.list(given)


TAGS: dict[str, list[Any]] = {
    "one": ["red", "blue"],
    "two": ["reddish"],
    "three": [],
    "four": [3, True, {"red": "red"}, ["red"], "it's"],
}


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"tags": {"contains": "red"}}, ["one"]),
        ({"tags": {"contains": 3}}, ["four"]),
        ({"tags": {"contains": "it's"}}, ["four"]),
        ({"tags": {"contains": "["}}, []),
        ({"tags": {"empty": True}}, ["three"]),
        ({"$not": {"tags": {"contains": "red"}}}, ["two", "three", "four"]),
        ({"$or": [{"tags": {"contains": t}} for t in ("red", "reddish")]}, ["one", "two"]),
    ],
)
def test_filters_on_lists(make: Make, given: dict[str, Any], found: list[str]) -> None:
    memory = make("tags")
    memory.add(MemoryDocument(id=id, text=id, metadata={"tags": t}) for id, t in TAGS.items())
    assert [document.id for document in memory.list(given)] == found
    if found:
        assert {hit.id for hit in memory.search("one", k=9, filter=given)} == set(found)


def test_search_gives_passages_of_the_document(memory: TreeMemory) -> None:
    hits = memory.search("blue poppies behind the chapel", k=3)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert hits[0].id == "garden"
    for hit in hits:
        text = memory.get(hit.id).text
        assert text[hit.char_start : hit.char_end] == hit.text
        if hit.match_start is not None:
            assert text[hit.match_start : hit.match_end] in hit.text
    assert hits[0].match_start is not None
    only = memory.search("blue poppies", k=50, filter={"place": "Penmor"})
    assert {hit.id for hit in only} == {"story", "ferry"}
    assert {hit.metadata["place"] for hit in only} == {"Penmor"}
    with pytest.raises(InputError, match="no document that the filter lets through"):
        memory.search("poppies", filter={"place": "Rome"})


@pytest.mark.parametrize("k", [0, -1, 2.5, True, "4", None, 2**40])
def test_numbers_of_passages_that_cannot_be(memory: TreeMemory, llm: SharedLLM, k: object) -> None:
    with pytest.raises(SharedLLMError, match="k is"):
        memory.search("poppies", k)  # type: ignore[arg-type]
    with pytest.raises(SharedLLMError, match="k is"):
        llm.passages("poppies", memory, k)  # type: ignore[arg-type]


KINDS = ["the of and", "?", "猫はどこ", "ποιος", "\u200bwho\u200b", "x" * 400]


@pytest.mark.parametrize("question", KINDS)
def test_questions_of_any_kind_find_something(
    memory: TreeMemory, llm: SharedLLM, question: str
) -> None:
    assert len(memory.search(question, k=2)) == 2
    assert len(llm.passages(question, memory, k=2)) == 2
    assert llm.select(question, memory, budget=64, scorer="bm25").nodes


@pytest.mark.parametrize("question", ["", " \n", None, 7, "\ud800"])
def test_what_is_no_question(memory: TreeMemory, llm: SharedLLM, question: object) -> None:
    with pytest.raises(SharedLLMError):
        memory.search(question)  # type: ignore[arg-type]
    with pytest.raises(SharedLLMError):
        llm.passages(question, memory)  # type: ignore[arg-type]


def test_a_model_finds_passages_in_documents_and_memories(
    memory: TreeMemory, llm: SharedLLM
) -> None:
    extra = llm.remember("The mayor of Penmor is Rosa Lind.\fShe is tall.", title="Mayor")
    found = llm.passages("Who is the mayor?", [extra, memory], k=3, scorer="bm25")
    assert (found[0].id, found[0].title, found[0].page) == (extra.id, "Mayor", 1)
    assert extra.text[found[0].match_start : found[0].match_end] in found[0].text
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
    assert "<b>" in str(found._repr_html_())
    with pytest.raises(SharedLLMError, match="scorer is 'bm52'; allowed"):
        llm.passages("poppies", memory, scorer="bm52")


def test_documents_and_memories_mix(memory: TreeMemory, llm: SharedLLM) -> None:
    extra = llm.remember("The mayor of Penmor is Rosa Lind.", title="Mayor")
    answer = llm.answer("Who is the mayor?", [extra, memory], **QUICK)
    assert answer.usage.context_tokens == len(extra) + sum(d.tokens for d in memory.list())
    by_path = llm.answer("Who is the mayor?", [extra, str(memory.path)], **QUICK)
    assert by_path.text == answer.text
    batch = llm.answer_batch(["Who is the mayor?"], [[extra, memory]], **QUICK)
    assert batch[0].text == answer.text


def test_a_path_is_opened_once(memory: TreeMemory, make: Make, llm: SharedLLM) -> None:
    """By the path of a memory: the same object again, but for one that was made anew."""
    opened = per_question(str(memory.path), 1)[0][0]
    assert per_question(memory.path, 1)[0][0] is opened
    memory.delete("story")
    assert [document.id for document in opened.list()] == ["ferry", "garden"]
    with make(vectors="exact", rebuild=True) as rebuilt:
        again = per_question(str(rebuilt.path), 1)[0][0]
        assert again is not opened
        assert llm.answer("Who grew poppies?", str(rebuilt.path), **QUICK).citations


def test_compacting_keeps_what_is_alive(memory: TreeMemory, llm: SharedLLM) -> None:
    answer = llm.answer("When does the ferry leave?", memory, **QUICK)
    memory.add(MemoryDocument(id="other", text=GARDEN + STORY))
    memory.delete("other")
    before = size(memory)
    memory.compact()
    assert size(memory) < before
    assert memory.verify().clean
    assert llm.answer("When does the ferry leave?", memory, **QUICK).text == answer.text
