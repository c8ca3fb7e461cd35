"""Several devices encode what one does: here copies on the CPU, each in a thread of its own."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sharedllm import SharedLLM, TreeMemory, loaded
from sharedllm.config import AdapterConfig
from sharedllm.encoding.kv import NodeKV
from sharedllm.encoding.lower_model import LowerModel, NodeRequest
from sharedllm.encoding.replicas import LEAST_TOKENS, Replicas, further_devices
from sharedllm.errors import ConfigError
from sharedllm.hf.copies import first_layers
from sharedllm.hf.lora import Adapter
from sharedllm.registry import forget
from tests.conftest import DOCUMENTS, WIDE
from tests.models import FAMILIES, TREE, make_model, shared, some_ids
from tests.texts import STORY

CPU = torch.device("cpu")
IDS = np.asarray(some_ids(600, 7), dtype=np.int32)
SPANS = [(at, min(at + 64, 600)) for at in range(0, 600, 64)]
REQUESTS = [  # chunks' roots and finer nodes, with and without what stands in front
    *(NodeRequest(start=a, end=b, ratio=8.0) for a, b in SPANS),
    *(NodeRequest(start=a, end=min(a + 32, b), ratio=4.0) for a, b in SPANS),
    *(NodeRequest(start=a + 16, end=b, ratio=1.0, context=8) for a, b in SPANS),
]


def several(family: str = "llama", **settings: Any) -> tuple[SharedLLM, Replicas]:
    """A model on three devices that are worth any work, and its lower model."""
    llm = shared(family, ingest_devices=(CPU, CPU), **settings)
    lower = llm.lower
    assert isinstance(lower, Replicas)
    lower.least_tokens = 1
    return llm, lower


class Watch:
    """Counts the batches that lower models begin and end, by name of the thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[str] = []
        self.ended = 0
        self.fails = -1  # the batch that fails, by its number
        run = LowerModel._run

        def watched(lower: LowerModel, *args: Any) -> torch.Tensor:
            self.begun.append(threading.current_thread().name)
            if len(self.begun) - 1 == self.fails:
                raise ZeroDivisionError("a card fell off the bus")
            out = run(lower, *args)
            self.ended += 1
            return out

        monkeypatch.setattr(LowerModel, "_run", watched)

    @property
    def at_home(self) -> int:
        return self.begun.count("MainThread")


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


def encoded(lower: LowerModel, **options: Any) -> dict[NodeRequest, NodeKV]:
    with torch.inference_mode():
        return dict(lower.encode(IDS, REQUESTS, **options))


def assert_same(found: NodeKV, expected: NodeKV, *, exactly: bool) -> None:
    rtol, atol = (0.0, 0.0) if exactly else (1e-4, 1e-5)
    torch.testing.assert_close(found.keys, expected.keys, rtol=rtol, atol=atol)
    torch.testing.assert_close(found.values, expected.values, rtol=rtol, atol=atol)


@pytest.mark.parametrize("batch_tokens", [1, 130, 200, 4096])
@pytest.mark.parametrize("family", FAMILIES)
def test_nodes_are_those_of_one_device_in_its_order(family: str, batch_tokens: int) -> None:
    one, (_, lower) = shared(family).lower, several(family)
    one.batch_tokens = lower.batch_tokens = batch_tokens
    counted: tuple[list[int], list[int]] = ([], [])
    expected = encoded(one, done=counted[0].append)
    found = encoded(lower, done=counted[1].append)
    assert list(found) == list(expected)
    for request, kv in found.items():
        assert_same(kv, expected[request], exactly=batch_tokens == 1)  # then batches are the same
    assert sum(counted[1]) == sum(counted[0])


@pytest.mark.parametrize("batch_tokens", [1, 130, 4096])
def test_search_vectors_are_those_of_one_device(batch_tokens: int) -> None:
    one, (_, lower) = shared("llama").lower, several()
    one.batch_tokens = lower.batch_tokens = batch_tokens
    one.search_in_bf16 = lower.search_in_bf16 = False
    done: list[int] = []
    found = lower.vectors(IDS, SPANS, done=done.append)
    torch.testing.assert_close(found, one.vectors(IDS, SPANS), rtol=1e-3, atol=1e-4)
    assert sum(done) == len(IDS)
    states, expected = (list(x.states(IDS, SPANS)) for x in (lower, one))
    assert [index for index, _ in states] == [index for index, _ in expected]


def test_what_finds_the_centre_stays_at_home(watch: Watch) -> None:
    one, (_, lower) = shared("llama").lower, several()
    lower.least_tokens = LEAST_TOKENS
    assert torch.equal(lower._centre, one._centre)
    assert watch.at_home == len(watch.begun)


def test_every_device_has_as_much_to_do(watch: Watch) -> None:
    _, lower = several()
    encoded(lower)
    assert (watch.at_home, len(watch.begun)) == (1, 3)
    for most, lengths, expected in (
        (100, [10] * 9, [3, 3, 3]),  # one batch of one device would hold it
        (100, [10] * 8, [3, 3, 2]),
        (100, [90, 10, 10, 10], [1, 2, 1]),
        (30, [10] * 10, [2, 2, 2, 1, 2, 1]),  # two rounds
        (15, [10, 10, 10, 10], [1, 1, 1, 1]),
        (5, [10, 10], [1, 1]),
        (100, [10], [1]),
        (100, [], []),
    ):
        lower.batch_tokens = most
        assert list(lower._shares(lengths)) == expected, (most, lengths)
    lower.batch_tokens, lower.least_tokens = 100, 40
    assert list(lower._shares([10] * 7)) == [7]
    assert list(lower._shares([10] * 8)) == [4, 4]


def test_between_two_nodes_no_device_works(watch: Watch) -> None:
    """The caller gives the model up there, and may leave for good."""
    _, lower = several()
    lower.batch_tokens = 130
    nodes = lower.encode(IDS, REQUESTS)
    for _ in range(5):
        with torch.inference_mode():
            next(nodes)
        assert watch.ended == len(watch.begun)
    begun = len(watch.begun)
    nodes.close()  # type: ignore[attr-defined]
    assert lower._pool._work_queue.empty()
    assert len(watch.begun) == begun < 12


@pytest.mark.parametrize("fails", [0, 1, 2])
def test_an_error_reaches_the_caller_when_all_have_stopped(watch: Watch, fails: int) -> None:
    _, lower = several()
    lower.batch_tokens, watch.fails = 130, fails
    with pytest.raises(ZeroDivisionError, match="off the bus"):
        encoded(lower)
    assert len(watch.begun) == 3
    assert watch.ended == 2
    assert len(encoded(lower)) == len(REQUESTS)  # and it goes on


def test_with_gradients_it_works_at_home_alone(watch: Watch) -> None:
    _, lower = several()
    found = dict(lower.encode(IDS, REQUESTS))
    assert all(kv.keys.requires_grad for kv in found.values())
    assert watch.at_home == len(watch.begun)
    with torch.no_grad():
        found = dict(lower.encode(IDS, REQUESTS))
    assert not any(kv.keys.is_inference() for kv in found.values())
    assert watch.at_home < len(watch.begun)


def test_threads_run_in_the_modes_of_the_caller() -> None:
    one, (_, lower) = shared("llama").lower, several()
    one.batch_tokens = lower.batch_tokens = 1
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = (encoded(x) for x in (one, lower))
    plain = encoded(one)
    for request, kv in found.items():
        assert_same(kv, expected[request], exactly=True)
    assert not torch.equal(found[REQUESTS[0]].keys.float(), plain[REQUESTS[0]].keys)


@torch.no_grad()
def adapted(llm: SharedLLM, seed: int) -> Adapter:
    torch.manual_seed(seed)
    adapter = Adapter(llm.model, AdapterConfig(rank=2, alpha=2))
    for parameter in adapter.parameters().values():
        parameter.requires_grad_(False)
        parameter.add_(0.1 * torch.randn(parameter.shape).to(parameter))
        parameter.data = parameter.data.to(llm.model.dtype)
    llm.adapt(adapter)
    return adapter


@pytest.mark.parametrize("settings", [{}, {"layers": 2}, {"mode": "cross"}])
def test_an_adapter_is_on_all_devices(settings: dict[str, Any], watch: Watch) -> None:
    one, (llm, lower) = shared("llama", **settings), several(**settings)
    one.lower.batch_tokens = lower.batch_tokens = 1
    before = encoded(lower)
    for seed in (1, 2):  # it is changed for another, too
        pair = [adapted(one, seed), adapted(llm, seed)]
        expected, found = (encoded(x) for x in (one.lower, lower))
        for request in REQUESTS:
            assert_same(found[request], expected[request], exactly=True)
            assert not torch.equal(found[request].keys, before[request].keys)
        for adapter in pair[: seed == 1 and 2]:
            adapter.remove()
    pair[1].train()
    watch.begun.clear()
    encoded(lower)
    assert watch.at_home == len(watch.begun)  # the copies are not of its weights any more


def test_a_memory_is_that_of_one_device(tmp_path: Path, watch: Watch) -> None:
    one, (llm, lower) = shared("llama", sizes=WIDE), several(sizes=WIDE)
    one.lower.batch_tokens = lower.batch_tokens = 1
    held = []
    for name, model in (("one", one), ("several", llm)):
        with TreeMemory(tmp_path / name, llm=model, keep="all") as memory:
            memory.add(DOCUMENTS)
            assert memory.verify().clean
        shards = sorted((tmp_path / name / "shards").iterdir())
        held.append([path.read_bytes() for path in shards])
    assert held[0] == held[1]
    assert any("ingest" in name for name in watch.begun)
    lower.batch_tokens = 9000
    assert lower.at_once == 27_000


def test_answers_are_those_of_one_device() -> None:
    one, (llm, _) = shared("llama", sizes=WIDE), several(sizes=WIDE)
    options = {"max_new_tokens": 4, "finest": "kv", "rest": "all", "budget": 300}
    answers = []
    for model in (one, llm):
        document = model.remember(STORY)
        model.encode(document, background=True).result()
        answers.append(model.answer("Who keeps the light?", document, **options))
    assert answers[0].text == answers[1].text


def test_a_copy_has_only_what_it_needs() -> None:
    model = make_model("llama")
    names = set(model.state_dict())
    replica = first_layers(model, 2, CPU)
    assert len(replica.get_decoder().layers) == 2
    assert {n for n in replica.state_dict() if "lm_head" in n or ".layers.2." in n} == set()
    assert set(model.state_dict()) == names
    assert not any(p.requires_grad for p in replica.parameters())
    assert any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"is_quantized": True}, "not quantised"),
        ({"hf_device_map": {"": 0}}, "on one device"),
    ],
)
def test_what_cannot_be_copied_is_refused(change: dict[str, Any], message: str) -> None:
    model = make_model("llama")
    vars(model).update(change)
    with pytest.raises(ConfigError, match=message):
        first_layers(model, 2, CPU)


def test_a_model_with_hooks_is_refused() -> None:
    llm = shared("llama")
    Adapter(llm.model, AdapterConfig(rank=2))
    with pytest.raises(ConfigError, match="forward hooks"):
        first_layers(llm.model, 2, CPU)


HOME = torch.device("cuda:0")


def test_devices_are_named_in_several_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    there = tuple(torch.device(f"cuda:{i}") for i in range(4))
    assert further_devices(None, HOME) == further_devices([], HOME) == ()
    assert further_devices(None, CPU) == further_devices("all", CPU) == ()
    assert further_devices("all", HOME) == there[1:]
    assert further_devices("all", torch.device("cuda")) == (there[0], *there[2:])
    assert further_devices("cuda:3, cuda:1", HOME) == (there[3], there[1])
    assert further_devices([there[2], "cuda:1"], HOME) == (there[2], there[1])


@pytest.mark.parametrize(
    ("given", "home", "message"),
    [
        ("cuda:1", CPU, "ingest_devices is 'cuda:1', but the model is on 'cpu'"),
        (["cpu"], CPU, "but the model is on 'cpu'"),
        ("cuda:2", HOME, "names 'cuda:2'; allowed: cuda:0, cuda:1 or 'all'"),
        (["cpu"], HOME, "names 'cpu'; allowed: cuda:0, cuda:1 or 'all'"),
        ("", HOME, "names ''; allowed"),
        ("cuda:0", HOME, "names 'cuda:0', where the model is already"),
        ("cuda:1,cuda:1", HOME, "names 'cuda:1', named twice"),
    ],
)
def test_wrong_devices_are_refused(
    monkeypatch: pytest.MonkeyPatch, given: Any, home: torch.device, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError) as raised:
        further_devices(given, home)
    assert message in str(raised.value)


def test_models_are_loaded_with_their_devices(
    monkeypatch: pytest.MonkeyPatch, tiny_folder: Path
) -> None:
    with pytest.raises(ConfigError, match="ingest_devices is 'cuda:1'"):
        SharedLLM.from_pretrained("/no/such/folder", device="cpu", ingest_devices="cuda:1")
    given: list[Any] = []

    def load(name: str, **options: Any) -> SimpleNamespace:
        given.append(options["ingest_devices"])
        return SimpleNamespace()

    monkeypatch.setattr(SharedLLM, "from_pretrained", load)
    monkeypatch.setattr("sharedllm.registry.further_devices", lambda names, home: names or ())
    forget()
    try:
        alone = loaded("x", device="cpu")
        assert loaded("x", device="cpu", ingest_devices=("cuda:1",)) is not alone
        assert loaded("x", device="cpu") is alone
    finally:
        forget()
    assert given == [(), ("cuda:1",)]


def test_a_model_is_loaded_once_and_copied(
    monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, tmp_path: Path
) -> None:
    llm = SharedLLM.from_pretrained(tiny_folder, device="cpu", tree=TREE)
    adapted(llm, 1)
    llm.save_pretrained(tmp_path, dtype=torch.float32)
    monkeypatch.setattr("sharedllm.shared_llm.further_devices", lambda given, home: (CPU,) * given)
    made = [
        SharedLLM.from_pretrained(tiny_folder, device="cpu", adapter=tmp_path, ingest_devices=n)  # type: ignore[arg-type]
        for n in (0, 2)
    ]
    lowers = [one.lower for one in made]
    assert isinstance(lowers[1], Replicas)
    assert lowers[1].devices == (CPU,) * 3
    lowers[1].least_tokens = lowers[0].batch_tokens = lowers[1].batch_tokens = 1
    expected, found = (encoded(lower) for lower in lowers)
    for request in REQUESTS:
        assert_same(found[request], expected[request], exactly=True)
    assert made[0].identity == made[1].identity


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_cards_encode_what_one_does(dtype: torch.dtype) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    models = []
    for further in ((), (torch.device("cuda:1"),)):
        llm = SharedLLM(
            make_model("llama").to(HOME, dtype),
            shared("llama").tokenizer,
            tree=shared("llama").tree,
            ingest_devices=further,
        )
        adapted(llm, 1)
        models.append(llm)
    one, lower = models[0].lower, models[1].lower
    assert isinstance(lower, Replicas)
    lower.least_tokens = one.batch_tokens = lower.batch_tokens = 1
    for stream in (torch.cuda.current_stream(HOME), torch.cuda.Stream(HOME)):  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            expected, found = (encoded(x) for x in (one, lower))
            for request in REQUESTS:
                assert found[request].keys.device == HOME
                assert_same(found[request], expected[request], exactly=True)
            assert torch.equal(lower.vectors(IDS, SPANS), one.vectors(IDS, SPANS))
    lower.batch_tokens = one.batch_tokens = 200
    expected, found = (encoded(x) for x in (one, lower))
    loose = 0.1 if dtype == torch.bfloat16 else 1e-4
    for request in REQUESTS:
        kv, other = found[request], expected[request]
        torch.testing.assert_close(kv.keys, other.keys, rtol=loose, atol=loose)
        torch.testing.assert_close(kv.values, other.values, rtol=loose, atol=loose)
