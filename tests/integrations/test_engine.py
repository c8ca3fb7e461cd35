"""An engine: settings, threads, time limits, and requests that nobody waits for."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic import ValidationError

from sharedllm import SharedLLM, TreeMemory
from sharedllm_integrations.engine import CancelledRequest, Engine, Run, _queue
from sharedllm_integrations.errors import AnswerTimeoutError, SetupError
from sharedllm_integrations.requests import GivenText, Request
from sharedllm_integrations.settings import AnswerFields
from sharedllm_integrations.tree_cache import process_cache
from tests.integrations.asking import ask, said
from tests.integrations.prompts import enclosed
from tests.texts import FERRY, GARDEN, STORY


@pytest.mark.parametrize(
    ("given", "message"),
    [({"keep": True}, "keep=True needs"), ({"reads": "memory"}, "reads='memory' needs")],
)
def test_settings_that_do_not_go_together(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SetupError, match=f"{message} a memory"):
        Engine(AnswerFields(**given))


@pytest.mark.parametrize("given", [{"reads": "all"}, {"long_text": 0}, {"max_tokens": -1}])
def test_bad_settings_are_named(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(given))):
        AnswerFields(**given)


def test_a_whole_memory_may_be_asked_or_what_passes_a_filter(
    llm: SharedLLM, memory: TreeMemory
) -> None:
    run = ask(llm, "When does the ferry leave?", memory=memory, reads="memory")
    assert run.answer.citations
    assert run.answer.usage.context_tokens == len((STORY + FERRY + GARDEN).encode())
    own = {"memory": memory, "reads": "memory", "filter": {"year": 1902}}
    run = ask(llm, "When does the ferry leave?", **own)
    assert run.answer.usage.context_tokens == len(GARDEN)


def test_threads_share_one_model(llm: SharedLLM) -> None:
    prompts = [enclosed(text) + f"\n\n{n}?" for n, text in enumerate((STORY, FERRY, GARDEN) * 3)]
    alone = [ask(llm, prompt).text for prompt in prompts]
    process_cache().clear()
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda prompt: ask(llm, prompt).text, prompts))
    assert together == alone


def test_a_run_that_is_dropped_gives_the_model_back_at_once(llm: SharedLLM) -> None:
    """Without a collection: a server would hold a place in the batch for a client that left."""
    gc.disable()
    try:
        run = Engine(AnswerFields(llm=llm, search={"max_new_tokens": 200})).start(
            Request(messages=[said("Hello")])
        )
        next(run)
        assert llm.encoder.lock._questions == 1
        del run
        assert llm.encoder.lock._questions == 0
    finally:
        gc.enable()


def test_an_answer_that_takes_too_long(llm: SharedLLM) -> None:
    with pytest.raises(AnswerTimeoutError, match=r"after 1e-05 s; raise timeout"):
        ask(llm, "Hello", timeout=0.00001)


def test_a_request_waits_in_line_no_longer_than_it_may(
    llm: SharedLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm.decoder, "_shared", None)  # a test's server lets answers share passes
    with _queue(llm), pytest.raises(AnswerTimeoutError, match="kept the model busy"):
        ask(llm, "Hello", timeout=0.05)


def test_a_cancelled_request_stops(llm: SharedLLM) -> None:
    cancelled = threading.Event()
    engine = Engine(AnswerFields(llm=llm, search={"max_new_tokens": 200}))
    run = engine.start(Request(messages=[said("Hello")], cancelled=cancelled))
    next(run)
    cancelled.set()
    assert len(list(_until_cancelled(run))) == 0


def test_the_reading_of_a_document_ends_with_its_time_or_its_request(
    llm: SharedLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm.encoder.lower, "batch_tokens", 64)
    process_cache().clear()
    given = GivenText(text=STORY * 9)
    with pytest.raises(AnswerTimeoutError, match="not complete after"):
        ask(llm, said(given, "\n\nWho lit the lamp?"), timeout=1e-5)
    cancelled, passes = threading.Event(), []
    run = llm.encoder.lower._run

    def counted(*args: Any) -> Any:
        passes.append(1)
        if len(passes) == 3:
            cancelled.set()
        return run(*args)

    monkeypatch.setattr(llm.encoder.lower, "_run", counted)
    messages = [said(given, "\n\nWho lit the lamp?")]
    with pytest.raises(CancelledRequest):
        Engine(AnswerFields(llm=llm)).start(Request(messages=messages, cancelled=cancelled))
    assert len(passes) == 3
    assert len(process_cache()) == 0


def _until_cancelled(run: Run) -> Any:
    with pytest.raises(CancelledRequest):
        next(run)
    return run
