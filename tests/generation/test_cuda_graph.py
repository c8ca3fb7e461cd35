"""Steps of one shape, as CUDA graphs replay them, against steps that grow."""

from __future__ import annotations

import pytest
import torch

from sharedllm import SharedLLM
from sharedllm.encoding.document_encoder import DocumentEncoder
from sharedllm.errors import ConfigError
from sharedllm.generation.cuda_graph import WARM_UP, StepGraph, require_graphs, restore
from sharedllm.generation.step_buffers import ROUND
from sharedllm.injection.positions import Prompt
from tests.equivalence.prompts import CLOSE, prompt_of
from tests.equivalence.test_3_generation import BATCH
from tests.models import MODES, TREE, make_model, make_tokenizer, shared, some_ids
from tests.texts import STORY

STEPS = some_ids(4, 50)
QUESTIONS = ("Who kept the lamp?", "Where did the ferry go?")


def grown(llm: SharedLLM, prompts: list[Prompt]) -> list[torch.Tensor]:
    """Logits (B, V) after each of STEPS."""
    session, out = llm.upper.start(prompts), []
    for token in STEPS:
        llm.upper.step(session, [token] * len(prompts))
        out.append(session.logits)
    return out


@pytest.mark.parametrize("positions", ["ordinal", "chunk"])
@pytest.mark.parametrize(("family", "mode"), MODES)
def test_fixed_steps_are_growing_steps(family: str, mode: str, positions: str) -> None:
    llm = shared(family, mode=mode, positions=positions, layers=2)
    prompts = [prompt_of(llm, pieces) for pieces in BATCH]
    for batch in (prompts, prompts[:1], prompts[3:4]):
        session = llm.upper.start(batch)
        step_graph = StepGraph(llm.upper, session, len(STEPS), graph=False)
        for token, expected in zip(STEPS, grown(llm, batch), strict=True):
            step_graph.step([token] * len(batch))
            torch.testing.assert_close(session.logits, expected, **CLOSE)
            assert session.logits is step_graph.logits


def test_a_capture_takes_its_warm_up_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything of a capture but CUDA's part: the steps after it are the first ones."""
    llm = shared("llama")
    prompts = [prompt_of(llm, BATCH[0])]
    session = llm.upper.start(prompts)
    step_graph = StepGraph(llm.upper, session, len(STEPS), graph=False)
    changed = step_graph.buffers.state
    with torch.inference_mode():
        before = [x.clone() for x in changed]
        for _ in range(WARM_UP):
            step_graph.run()
        assert not torch.equal(step_graph.buffers.plain.next, before[-4])
        restore(changed, before)
    for token, expected in zip(STEPS, grown(llm, prompts), strict=True):
        step_graph.step([token])
        torch.testing.assert_close(session.logits, expected, **CLOSE)


def test_there_is_room_for_as_many_tokens_as_were_asked_for() -> None:
    llm = shared("llama")
    step_graph = StepGraph(
        llm.upper, llm.upper.start([Prompt(text=(some_ids(ROUND - 4),))]), 5, graph=False
    )
    assert step_graph.buffers.plain.room == 2 * ROUND
    for _ in range(5):
        step_graph.step([1])
    with pytest.raises(ValueError, match="buffers are full"):
        step_graph.step([1])


def test_graphs_need_a_card_and_a_rotation_that_stays() -> None:
    llm = shared("llama")
    with pytest.raises(ConfigError, match="one CUDA card"):
        llm.answer("Who?", graphs=True, max_new_tokens=1)
    with pytest.raises(ConfigError, match="graphs is 1"):
        llm.answer("Who?", graphs=1)
    assert llm.upper.fixed_rotation
    experts = shared("mixtral").upper
    experts.device = torch.device("cuda")
    with pytest.raises(ConfigError, match="not for mixtures of experts"):
        require_graphs(experts)
    for family in ("llama-dynamic", "phi3-longrope"):
        upper = shared(family).upper
        assert not upper.fixed_rotation
        upper.device = torch.device("cuda")
        with pytest.raises(ConfigError, match="'dynamic' and 'longrope'"):
            require_graphs(upper)
    llm.model.is_loaded_in_8bit = True  # as transformers marks it
    llm.upper.device = torch.device("cuda")
    with pytest.raises(ConfigError, match="weights in 8 bits"):
        require_graphs(llm.upper)


def test_buffers_of_one_answer_serve_the_next() -> None:
    llm = shared("llama")
    longer, shorter = ([prompt_of(llm, BATCH[i])] for i in (0, 1))
    for first, then in ((longer, shorter), (shorter, longer), (longer, longer)):
        step_graph = StepGraph(llm.upper, llm.upper.start(first), len(STEPS), graph=False)
        for token in STEPS[:-1]:
            step_graph.step([token])
        session = llm.upper.start(then)
        assert step_graph.fits(session, len(STEPS))
        step_graph.take(session, len(STEPS))
        for token, expected in zip(STEPS, grown(llm, then), strict=True):
            step_graph.step([token])
            torch.testing.assert_close(session.logits, expected, **CLOSE)
        with pytest.raises(ValueError, match="buffers are full"):
            step_graph.step([1])


def test_buffers_do_not_serve_what_they_cannot_hold() -> None:
    llm = shared("llama")
    prompts = [prompt_of(llm, BATCH[0])]
    step_graph = StepGraph(llm.upper, llm.upper.start(prompts), len(STEPS), graph=False)
    session = llm.upper.start(prompts)
    assert not step_graph.fits(session, 2 * ROUND)
    assert not step_graph.fits(llm.upper.start(prompts * 2), 1)
    assert not step_graph.fits(llm.upper.start([Prompt(text=(some_ids(5),), reads=True)]), 1)
    with torch.no_grad():
        weight = next(llm.model.parameters())
        weight += 0.0
    assert not step_graph.fits(session, 1)  # a graph of other weights


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 5])  # five have padding between them, and so a mask
def test_graphs_in_half_precision_on_a_card(rows: int) -> None:
    """Without a mask the kernel itself follows how many slots are filled."""
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    model = make_model("llama").to("cuda", torch.bfloat16)
    llm = SharedLLM(DocumentEncoder(model, make_tokenizer(), tree=TREE))
    prompts = [prompt_of(llm, pieces) for pieces in BATCH[:rows]]
    step_graph = StepGraph(llm.upper, llm.upper.start(prompts), len(STEPS), graph=True)
    for _ in range(2):
        session = llm.upper.start(prompts)
        step_graph.take(session, len(STEPS))
        for token, expected in zip(STEPS, grown(llm, prompts), strict=True):
            step_graph.step([token] * rows)
            torch.testing.assert_close(session.logits, expected, rtol=0.05, atol=0.05)


@pytest.mark.gpu
def test_answers_take_the_graph_of_the_one_before() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    llm = shared("llama", device="cuda")
    options = {"max_new_tokens": 24, "budget": 64}
    story = llm.remember(STORY)
    expected = [llm.answer(q, story, graphs=False, **options).text for q in QUESTIONS]
    assert [llm.answer(q, story, **options).text for q in QUESTIONS] == expected
    idle = llm.decoder._step_graphs._idle
    assert idle is not None
    assert llm.answer(QUESTIONS[0], story, **options).text == expected[0]
    assert llm.decoder._step_graphs._idle is idle


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("family", "mode"),
    [("llama", "joint"), ("llama", "cross"), ("gemma2", "joint"), ("gemma3", "joint")],
)
def test_graphs_on_a_card(family: str, mode: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    llm = shared(family, mode=mode, device="cuda")
    prompts = [prompt_of(llm, pieces) for pieces in BATCH]
    session = llm.upper.start(prompts)
    step_graph = StepGraph(llm.upper, session, len(STEPS), graph=True)
    for token, expected in zip(STEPS, grown(llm, prompts), strict=True):
        step_graph.step([token] * len(prompts))
        torch.testing.assert_close(session.logits, expected, rtol=2e-3, atol=2e-3)
