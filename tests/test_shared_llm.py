from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sharedllm import Document, SharedLLM, TreeConfig
from sharedllm.errors import (
    AdapterError,
    BudgetError,
    ConfigError,
    DocumentError,
    InputError,
    WindowError,
)
from tests.models import FAMILIES, make_model, shared
from tests.texts import FERRY, GARDEN, STORY

QUICK = {"max_new_tokens": 4, "budget": 96}


def test_an_answer_says_what_it_was_made_of(tiny_llm: SharedLLM, story: Document) -> None:
    answer = tiny_llm.answer("Who kept the lamp?", story, **QUICK)
    timings = answer.timings
    assert timings.remember_s == story.remember_s > 0
    assert min(timings.search_s, timings.prefill_s, timings.decode_s) > 0
    assert answer.finish_reason in ("stop", "length")
    assert all(c.source == "lighthouse.txt" for c in answer.citations)
    assert answer.usage.left_out_chunks > 0


def test_a_gpu_encodes_the_coarse_level_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = shared("llama")
    document = llm.remember(STORY)
    llm.encoder.encode_roots_at_once(document)
    assert len(document.nodes) == 0  # on a CPU it would be waited for
    own = llm.encoder.lower
    lower = SimpleNamespace(
        device=torch.device("cuda"), encode=own.encode, vectors=own.vectors, layers=own.layers
    )
    monkeypatch.setattr(llm.encoder, "lower", lower)
    llm.encoder.encode_roots_at_once(document)
    assert len(document.nodes) == len(document.forest.roots)
    small = llm.remember(GARDEN)
    small.nodes.limit = 10
    llm.encoder.encode_roots_at_once(small)
    assert len(small.nodes) == 1  # it could not keep them


def test_without_documents_it_answers_too(tiny_llm: SharedLLM) -> None:
    answer = tiny_llm.answer("Who are you?", max_new_tokens=3)
    assert answer.citations == ()
    assert answer.usage.context_tokens == answer.usage.evidence_tokens == 0
    assert answer.usage.coarse_ratio is None


def test_answers_do_not_depend_on_what_was_asked_before(story: Document) -> None:
    options = {**QUICK, "leaves": "kv", "coarse": "all"}
    llm = shared("llama")
    first, second = llm.remember(STORY), llm.remember(STORY)
    llm.answer("What about the telescope?", first, **options)
    used = llm.answer("Who rowed?", first, **options)
    fresh = llm.answer("Who rowed?", second, **options)
    assert used.text == fresh.text
    assert used.usage == fresh.usage


def test_documents_in_several_messages(tiny_llm: SharedLLM) -> None:
    ferry, garden = (tiny_llm.remember(t, title=t[:8]) for t in (FERRY, GARDEN))
    messages = [
        {"role": "user", "content": [_text("One."), {"type": "document", "document": ferry}]},
        {"role": "assistant", "content": "Read."},
        {"role": "user", "content": [{"type": "document", "document": garden}, _text("And?")]},
    ]
    for leaves in ("kv", "text"):
        stream = tiny_llm.stream(messages, leaves=leaves, **{**QUICK, "budget": 400})
        assert {c.source for c in stream.citations} == {FERRY[:8], GARDEN[:8]}
        places = len(stream._look.prepared.prompt.memory)
        assert places == (2 if leaves == "kv" else 0)
    with_context = tiny_llm.answer(messages, tiny_llm.remember(STORY), **QUICK)
    assert with_context.usage.context_tokens == len((STORY + FERRY + GARDEN).encode())


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def test_several_documents_are_told_apart_by_their_titles(tiny_llm: SharedLLM) -> None:
    ferry = tiny_llm.remember(FERRY, title="The ferry")
    garden = tiny_llm.remember(GARDEN, title="The garden")
    both = tiny_llm.stream("Poppies?", [ferry, garden], budget=900, max_new_tokens=1)
    shown = tiny_llm.tokenizer.decode([i for ids in both._look.prepared.prompt.text for i in ids])
    assert "The ferry\n" in shown
    assert "The garden\n" in shown
    assert FERRY in shown
    alone = tiny_llm.stream("Poppies?", garden, budget=900, max_new_tokens=1)
    shown = tiny_llm.tokenizer.decode([i for ids in alone._look.prepared.prompt.text for i in ids])
    assert "The garden\n" not in shown


def test_the_same_document_twice_counts_once(tiny_llm: SharedLLM, story: Document) -> None:
    once = tiny_llm.answer("Who?", story, **QUICK)
    twice = tiny_llm.answer("Who?", [story, tiny_llm.remember(STORY)], **QUICK)
    assert (once.text, once.usage) == (twice.text, twice.usage)


def test_threads_get_the_answers_they_would_get_alone() -> None:
    llm = shared("llama")
    documents = [llm.remember(t) for t in (STORY, FERRY, GARDEN)]
    jobs: list[tuple[str, list[Document]]] = [
        (f"Question {n}: who, what and when?", documents[n % 3 :]) for n in range(8)
    ]
    options: dict[str, Any] = {**QUICK, "leaves": "kv", "coarse": "all", "max_new_tokens": 8}
    together = threading.Barrier(4)

    def ask(job: tuple[str, list[Document]]) -> str:
        together.wait(timeout=30)
        return llm.answer(job[0], job[1], **options).text

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, jobs))
    fresh = shared("llama")
    again = [fresh.remember(t) for t in (STORY, FERRY, GARDEN)]
    expected = [fresh.answer(q, again[n % 3 :], **options).text for n, (q, _) in enumerate(jobs)]
    assert found == expected


def test_encoding_ahead_and_in_the_background() -> None:
    llm = shared("llama")
    document = llm.remember(STORY)
    roots = len(document.forest.roots)
    unprepared = llm.answer("Who?", document, coarse="ready", **QUICK)
    assert unprepared.usage.injected_tokens == 0
    done: list[tuple[int, int]] = []
    future = llm.encode(document, background=True, progress=lambda *at: done.append(at))
    future.result(timeout=30)
    assert len(document.nodes) == roots
    assert done[-1] == (len(document), len(document))
    prepared = llm.answer("Who?", document, coarse="ready", **QUICK)
    assert prepared.usage.injected_tokens > 0
    assert prepared.usage.coarse_ratio == llm.tree.root_ratio
    llm.encode(document, progress=lambda *at: done.append(at))
    assert len(done) == 1 or done[-1] == (len(document), len(document))
    assert len(document.nodes) == roots


def test_background_work_waits_while_a_question_is_open() -> None:
    llm = shared("llama")
    document = llm.remember(STORY)
    stream = llm.stream("Who?", document, **{**QUICK, "max_new_tokens": 20})
    next(stream)
    future = llm.encode(document, background=True)
    assert not wait([future], timeout=0.3).done
    assert len(document.nodes) == 0
    assert stream.answer.text
    future.result(timeout=30)
    assert len(document.nodes) == len(document.forest.roots)


def test_reading_reports_its_progress(tiny_llm: SharedLLM) -> None:
    done: list[tuple[int, int]] = []
    tiny_llm.remember("x" * 1000, progress=lambda *at: done.append(at))
    assert done[-1] == (1000, 1000)


def test_leaving_a_stream_leaves_the_model_usable(tiny_llm: SharedLLM, story: Document) -> None:
    stream = tiny_llm.stream("Who?", story, **{**QUICK, "max_new_tokens": 20})
    first = next(stream)
    del stream
    assert tiny_llm.answer("Who?", story, **{**QUICK, "max_new_tokens": 20}).text.startswith(
        first.strip()
    )


@pytest.mark.parametrize("question", ["", " ", None, 3, [], ["What?"], {"role": "user"}])
def test_bad_questions(tiny_llm: SharedLLM, story: Document, question: Any) -> None:
    with pytest.raises(InputError):
        tiny_llm.answer(question, story)


@pytest.mark.parametrize("context", ["a text", None, 3, ["a text"], [None], {"a": 1}])
def test_bad_contexts(tiny_llm: SharedLLM, context: Any) -> None:
    with pytest.raises(InputError, match="remember"):
        tiny_llm.answer("What?", context)


def test_documents_of_another_model_or_shape_are_refused(story: Document) -> None:
    for other in (shared("llama", tree=TreeConfig(chunk=128)), shared("llama", layers=2)):
        for use in (
            lambda o=other: o.answer("Who?", story),
            lambda o=other: o.answer_batch(["Who?"], story),
            lambda o=other: o.select("Who?", story),
            lambda o=other: o.encode(story),
        ):
            with pytest.raises(InputError, match=r"'The lighthouse' was read by another model"):
                use()


def test_searching_nothing_is_refused(tiny_llm: SharedLLM) -> None:
    with pytest.raises(InputError, match="no document to search"):
        tiny_llm.select("Who?", [])


@pytest.mark.parametrize("questions", ["What?", [], None, 3])
def test_bad_batches(tiny_llm: SharedLLM, questions: Any) -> None:
    with pytest.raises(InputError, match="list of questions"):
        tiny_llm.answer_batch(questions)


def test_a_batch_with_contexts_of_another_number(tiny_llm: SharedLLM, story: Document) -> None:
    with pytest.raises(InputError, match="each of the 2 questions"):
        tiny_llm.answer_batch(["a", "b"], [[story], [story], [story]])


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"budgit": 1}, ConfigError, "unknown option budgit; allowed: .*budget"),
        ({"scorer": "best"}, ConfigError, "'best'; allowed: 'fused'"),
        ({"selection": "wide"}, ConfigError, "'wide'"),
        ({"temperature": float("nan")}, ConfigError, "finite"),
        ({"temperature": -1}, ConfigError, "at least 0"),
        ({"budget": 0}, BudgetError, "budget is 0"),
        ({"budget": 3}, BudgetError, "takes .* tokens"),
        ({"max_new_tokens": 500}, WindowError, "512"),
        ({"budget": 400, "max_new_tokens": 300}, WindowError, "512"),
    ],
)
def test_bad_options(
    tiny_llm: SharedLLM, story: Document, options: dict[str, Any], error: Any, named: str
) -> None:
    with pytest.raises(error, match=named):
        tiny_llm.answer("Who?", story, **options)


def test_a_question_longer_than_the_window(tiny_llm: SharedLLM, story: Document) -> None:
    with pytest.raises(WindowError, match="shorten the question"):
        tiny_llm.answer("x" * 600, story)


@pytest.mark.parametrize("text", ["", None, 3, b"bytes"])
def test_bad_texts(tiny_llm: SharedLLM, text: Any) -> None:
    with pytest.raises(DocumentError):
        tiny_llm.remember(text)


def test_from_a_folder(tiny_folder: Path, tiny_llm: SharedLLM) -> None:
    tree = TreeConfig(chunk=64, height=2, ratios=(4, 1), root_ratio=8)
    llm = SharedLLM.from_pretrained(tiny_folder, device="cpu", tree=tree)
    options = {**QUICK, "leaves": "kv"}
    found = llm.answer("Who?", llm.remember(STORY), **options)
    assert found.text == tiny_llm.answer("Who?", tiny_llm.remember(STORY), **options).text
    assert found.timings.load_s > 0
    with pytest.raises(AdapterError, match="adapter is 'mine'"):
        SharedLLM.from_pretrained(tiny_folder, adapter="mine")


@pytest.mark.parametrize("family", [f for f in FAMILIES if not f.startswith("llama")])
def test_every_family_from_a_folder(family: str, tmp_path: Path) -> None:
    made = shared(family)
    make_model(family).save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    loaded = SharedLLM.from_pretrained(tmp_path, device="cpu", tree=made.tree)
    assert loaded.encoder.shape == made.encoder.shape
    options = {**QUICK, "max_new_tokens": 12, "leaves": "kv", "coarse": "all", "budget": 64}
    answers = [llm.answer("W", llm.remember(FERRY), **options) for llm in (made, loaded)]
    assert answers[0].text == answers[1].text
    assert answers[0].usage == answers[1].usage
