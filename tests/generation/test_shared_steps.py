"""Continuous batching: answers of several threads in one batch are those that come alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from sharedllm import Answer, SharedLLM
from sharedllm.generation.shared_steps import PREFILL, Seat, SharedSteps, fitting
from sharedllm.generation.step_buffers import ROUND
from sharedllm.injection.positions import Prompt
from tests.models import shared, some_ids
from tests.texts import STORY

QUESTIONS = (
    "Who kept the lamp?",
    "Where did the ferry go?",
    "What is the name of the town by the sea, and how many houses are there?",
    "Why?",
    "Who sang?",
)


@pytest.fixture
def llm() -> SharedLLM:
    one = shared("llama")
    one.reader.decoder.share(8)
    return one


def alone() -> SharedLLM:
    return shared("llama")


def ask(llm: SharedLLM, number: int, **options: Any) -> Answer:
    """One of many different questions: about a document, or none, long or short, drawn or not."""
    question = QUESTIONS[number % len(QUESTIONS)]
    own = {
        "max_new_tokens": 3 + 5 * (number % 4),
        "budget": 40 + 16 * (number % 3),
        "temperature": 0.8 * (number % 2),
        "seed": number,
    }
    context = () if number % 3 == 2 else llm.remember(STORY * (1 + number % 2))
    return llm.answer(question, context, **{**own, **options})


def all_at_once(llm: SharedLLM, count: int, threads: int, **options: Any) -> list[str]:
    with ThreadPoolExecutor(threads) as pool:
        return [a.text for a in pool.map(lambda n: ask(llm, n, **options), range(count))]


@pytest.mark.parametrize("together", [0, PREFILL])
@pytest.mark.parametrize("family", ["llama", "gemma3", "mixtral"])
def test_answers_of_many_threads_are_those_that_come_alone(family: str, together: int) -> None:
    llm, single, count = shared(family), shared(family), 12
    llm.reader.decoder.share(4)
    llm.reader.decoder._shared._together = together
    expected = [ask(single, number).text for number in range(count)]
    for threads in (4, 8):  # 8: more than the batch has rows
        assert all_at_once(llm, count, threads) == expected
        assert llm.reader.decoder._shared._taken == 0  # everything was given back


def test_passes_are_shared() -> None:
    llm = shared("llama")
    steps, passes = SharedSteps(llm.upper, llm.encoder.lock, 8), [0]
    llm.model.register_forward_hook(lambda *_: passes.__setitem__(0, passes[0] + 1))
    together = threading.Barrier(8)

    def answer(number: int) -> None:
        together.wait(60)
        seat = steps.seat([Prompt(text=(some_ids(6, number),))], 20)
        assert seat is not None
        for token in range(20):
            seat.step([token])
        seat.leave()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(answer, range(8)))
    assert passes[0] < 8 * 21 / 2


def test_injected_leaves_share_a_batch_with_text(llm: SharedLLM) -> None:
    expected = [ask(alone(), n, leaves=("kv", "text")[n % 2]).text for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda n: ask(llm, n, leaves=("kv", "text")[n % 2]).text, range(8))
    assert list(answers) == expected


def test_batches_of_questions_share_a_batch(llm: SharedLLM) -> None:
    document = llm.remember(STORY)
    options = {"max_new_tokens": 6, "budget": 48}
    expected = [a.text for a in alone().answer_batch(QUESTIONS[:3], document, **options)]

    def batch(_: int) -> list[str]:
        return [a.text for a in llm.answer_batch(QUESTIONS[:3], document, **options)]

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(batch, range(4))) == [expected] * 4


def test_a_batch_larger_than_the_rows_runs_by_itself(llm: SharedLLM) -> None:
    questions = QUESTIONS * 2
    found = llm.answer_batch(questions, llm.remember(STORY), max_new_tokens=4, budget=48)
    expected = alone().answer_batch(questions, llm.remember(STORY), max_new_tokens=4, budget=48)
    assert [a.text for a in found] == [a.text for a in expected]


def test_a_stream_that_nobody_reads_holds_nobody_up(llm: SharedLLM) -> None:
    document = llm.remember(STORY)
    paused = iter(llm.stream("Who?", document, max_new_tokens=24, budget=48, stop=["~"]))
    first = next(paused)
    expected = [ask(alone(), n).text for n in range(6)]
    assert all_at_once(llm, 6, 3) == expected
    whole = alone().answer("Who?", alone().remember(STORY), max_new_tokens=24, budget=48)
    assert first + "".join(paused) == whole.text


def test_a_stream_that_is_dropped_frees_its_rows(llm: SharedLLM) -> None:
    document = llm.remember(STORY)
    for _ in range(10):  # more than there are rows
        stream = iter(llm.stream("Who?", document, max_new_tokens=24, budget=48))
        next(stream)
        del stream
    assert llm.reader.decoder._shared._taken == 0


def test_a_stream_may_be_closed_within_a_pass(
    llm: SharedLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a collection of garbage does, in the thread that runs the pass."""
    document, options = llm.remember(STORY), {"max_new_tokens": 8, "budget": 48}
    expected = alone().answer("Why?", alone().remember(STORY), **options).text
    dropped = [iter(llm.stream("Who?", document, **options))]
    next(dropped[0])
    shared_steps = llm.reader.decoder._shared
    table = shared_steps._tables[True]
    step = table.step

    def collecting(seats: Sequence[Seat]) -> None:
        dropped.clear()
        step(seats)

    monkeypatch.setattr(table, "step", collecting)
    assert llm.answer("Why?", document, **options).text == expected
    assert not dropped
    assert shared_steps._taken == 0


def test_two_streams_of_one_thread_take_turns(llm: SharedLLM) -> None:
    document, options = llm.remember(STORY), {"max_new_tokens": 10, "budget": 48}
    expected = [alone().answer(q, alone().remember(STORY), **options).text for q in QUESTIONS[:2]]
    streams = [iter(llm.stream(q, document, **options)) for q in QUESTIONS[:2]]
    texts = ["", ""]
    going = True
    while going:
        pieces = [next(stream, "") for stream in streams]
        going = any(pieces)
        texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
    assert texts == expected


def test_an_error_of_one_prefill_is_not_that_of_the_others(
    llm: SharedLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be prefilled with others is prefilled alone; only its own error is raised."""
    start, upper = llm.upper.start, llm.upper

    def failing(prompts: Sequence[Prompt]) -> Any:
        if any(13 in ids for prompt in prompts for ids in prompt.text):
            raise MemoryError("too large")
        return start(prompts)

    monkeypatch.setattr(upper, "start", failing)
    steps = SharedSteps(upper, llm.encoder.lock, 8, prefill=PREFILL)
    together = threading.Barrier(5)
    good, bad = Prompt(text=((5, 6, 7),)), Prompt(text=((5, 13, 7),))

    def seat(prompt: Prompt) -> list[int]:
        together.wait(60)
        one = steps.seat([prompt], 4)
        assert one is not None
        one.step([3])
        one.leave()
        return one.best

    with ThreadPoolExecutor(5) as pool:
        futures = [pool.submit(seat, prompt) for prompt in (good, bad, good, bad, good)]
        errors = [future.exception(timeout=60) for future in futures]
    assert [isinstance(error, MemoryError) for error in errors] == [False, True, False, True, False]
    assert steps._taken == 0


def test_prompts_are_prefilled_together_up_to_a_number_of_tokens() -> None:
    def waiting(*lengths: int, reads: bool = False) -> Seat:
        prompts = [Prompt(text=(some_ids(n),), reads=reads) for n in lengths]
        return Seat(None, prompts, 1)  # type: ignore[arg-type]

    long, short, other = waiting(PREFILL // 2), waiting(10), waiting(10, reads=True)
    assert fitting([], PREFILL) == []
    assert fitting([short, other, short], PREFILL) == [short, short]  # other roles wait
    assert fitting([long, short, short], PREFILL) == [
        long,
        short,
    ]  # three would be padded beyond it
    assert (
        fitting([waiting(PREFILL * 2), short], PREFILL)[1:] == []
    )  # too long alone, but it has to run


def test_rows_grow_move_and_keep_their_answers() -> None:
    """Rows leave in any order, longer prompts come: the others' logits stay those of one alone."""
    llm = shared("llama")
    steps = SharedSteps(llm.upper, llm.encoder.lock, 16)
    lengths = [5, 40, 3, 90, 17, 8, 60, 2, ROUND + 30]
    seats, expected = [], []
    for number, length in enumerate(lengths):
        prompt = Prompt(text=(some_ids(length, number),))
        seat = steps.seat([prompt], 12)
        assert seat is not None
        seats.append(seat)
        expected.append(llm.upper.start([prompt]))
    for turn, gone in enumerate([0, 6, 3, 1, 7, 2]):
        for seat, session in zip(seats, expected, strict=True):
            if seat.rows:
                seat.step([turn + 4])
                llm.upper.step(session, [turn + 4])
                torch.testing.assert_close(seat.logits, session.logits, rtol=1e-4, atol=1e-4)
        seats[gone].leave()
        seats[gone].rows = []
    table = steps._tables[False]
    assert max(row for seat in table.seats for row in seat.rows) <= 3  # the gaps were closed


def test_steps_wait_for_no_one_who_went_away() -> None:
    """A thread that takes no step for long is not waited for, and joins again later."""
    llm = shared("llama")
    steps = SharedSteps(llm.upper, llm.encoder.lock, 4)
    slow, fast = (steps.seat([Prompt(text=(some_ids(6),))], 40) for _ in range(2))
    assert slow is not None
    assert fast is not None
    for token in range(8):
        fast.step([token])
    assert slow.missed >= 2
    thread = threading.Thread(target=slow.step, args=([5],))
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert slow.missed == 0


@pytest.mark.gpu
def test_a_batch_on_a_card_takes_graphs() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    llm, single = shared("llama", device="cuda"), shared("llama", device="cuda")
    llm.reader.decoder.share(8)
    expected = [ask(single, number, max_new_tokens=24).text for number in range(16)]
    assert all_at_once(llm, 16, 8, max_new_tokens=24) == expected
    assert any(table._graphs for table in llm.reader.decoder._shared._tables.values())
