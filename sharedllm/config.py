"""Typed, frozen settings of the four stages: trees, injection, search, generation.

Every field is validated when the object is made, so that a wrong value is reported where it was
written. :func:`replace` makes a changed copy.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from sharedllm.errors import BudgetError, ConfigError

InjectionMode = Literal["joint", "cross"]
Positions = Literal["ordinal", "chunk"]
Leaves = Literal["text", "kv"]
Coarse = Literal["none", "ready", "all"]

INJECTION_MODES = ("joint", "cross")
POSITIONS = ("ordinal", "chunk")
LEAVES = ("text", "kv")
COARSE_LEVELS = ("none", "ready", "all")
SELECTIONS = ("budget", "path")
ROLES = ("lower", "upper")
SCORERS = ("maxsim", "bm25", "hybrid", "embedding", "last_hidden", "recency")


def one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise :class:`ConfigError` unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ConfigError(f"{name} is {value!r}; allowed: {', '.join(map(repr, allowed))}")


def whole(name: str, value: object, *, least: int, most: float = math.inf) -> None:
    """Raise :class:`ConfigError` unless `value` is an integer in [`least`, `most`]."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        limit = "" if most == math.inf else f" and at most {most}"
        raise ConfigError(
            f"{name} is {value!r}; it must be a whole number of at least {least}{limit}"
        )


def several(name: str, value: object) -> tuple[Any, ...]:
    """Give `value` as a tuple; raise :class:`ConfigError` unless it is a list or a tuple."""
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{name} is {value!r}; it must be a list or a tuple")
    return tuple(value)


def number(name: str, value: object, *, least: float, most: float = math.inf) -> None:
    """Raise :class:`ConfigError` unless `value` is a finite number in [`least`, `most`]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{name} is {value!r}; it must be a finite number")
    if not least <= value <= most:
        bound = f"at least {least}" if most == math.inf else f"between {least} and {most}"
        raise ConfigError(f"{name} is {value!r}; it must be {bound}")


class _Config:
    """What the settings share: making one from a mapping, refusing unknown keys."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from a mapping; an unknown key raises :class:`ConfigError`."""
        known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ConfigError(
                f"{cls.__name__} has no option {', '.join(unknown)}; known: {', '.join(known)}"
            )
        return cls(**values)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with `changes`, validated again."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return self.from_dict({**values, **changes})


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeConfig(_Config):
    """The shape of a context tree (paper, section 3.2).

    Parameters
    ----------
    chunk : int
        Tokens a chunk; one tree each.
    height : int
        Levels below the root. 0 keeps every chunk as one node.
    ratios : tuple of float
        Tokens per kept entry for levels 1 to `height`. 1 keeps every token.
    root_ratio : float
        Tokens per kept entry of a root that was not expanded.
    context : int
        Tokens of the chunk in front of a node that the lower model reads with it and does not
        keep. 0 reads every node alone (the paper); `chunk` cuts all nodes from one pass.
    """

    chunk: int = 1024
    height: int = 3
    ratios: tuple[float, ...] = (16, 8, 1)
    root_ratio: float = 32
    context: int = 0

    def __post_init__(self) -> None:
        whole("chunk", self.chunk, least=1)
        whole("height", self.height, least=0)
        object.__setattr__(self, "ratios", several("ratios", self.ratios))
        if len(self.ratios) != self.height:
            raise ConfigError(
                f"ratios has {len(self.ratios)} values {self.ratios}; "
                f"a tree of height {self.height} needs {self.height}, one a level below the root"
            )
        number("root_ratio", self.root_ratio, least=1)
        whole("context", self.context, least=0)
        for level, ratio in enumerate(self.ratios, start=1):
            number(f"the ratio of level {level}", ratio, least=1)

    @property
    def leaf(self) -> int:
        """Tokens of a leaf of a full chunk."""
        return -(-self.chunk >> self.height)

    @property
    def leaf_ratio(self) -> float:
        """Tokens per kept entry of a leaf that was chosen."""
        return self.ratio(self.height)

    def ratio(self, level: int) -> float:
        """Tokens per kept entry of a node at `level` (root = 0)."""
        return self.root_ratio if level == 0 else self.ratios[level - 1]


@dataclass(frozen=True, kw_only=True, slots=True)
class InjectionConfig(_Config):
    """How selected nodes enter the upper model (paper, section 3.3; docs/architecture.md).

    Parameters
    ----------
    mode : {"joint", "cross"}
        One softmax over memory and running text, or the paper's separate cross-attention.
    layers : int or None
        Injection layers M, counted from the bottom; None is all of them.
    positions : {"ordinal", "chunk"}
        Memory entries numbered in prompt order, or all entries of chunk i at i (the paper).
    """

    mode: InjectionMode = "joint"
    layers: int | None = None
    positions: Positions = "ordinal"

    def __post_init__(self) -> None:
        one_of("mode", self.mode, INJECTION_MODES)
        one_of("positions", self.positions, POSITIONS)
        if self.layers is not None:
            whole("layers", self.layers, least=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterConfig(_Config):
    """Low-rank adapters (LoRA) of the two roles on one base.

    Parameters
    ----------
    rank : int
    alpha : float
        What an adapter adds is scaled by alpha / rank.
    roles : tuple of {"lower", "upper"}
        The others run the base.
    """

    rank: int = 16
    alpha: float = 32
    roles: tuple[str, ...] = ROLES

    def __post_init__(self) -> None:
        whole("rank", self.rank, least=1)
        number("alpha", self.alpha, least=1e-6)
        object.__setattr__(self, "roles", several("roles", self.roles))
        if not self.roles:
            raise ConfigError("roles is empty; give 'lower', 'upper' or both")
        for role in self.roles:
            one_of("a role", role, ROLES)


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig(_Config):
    """Which nodes are selected for a question.

    Parameters
    ----------
    selection : {"budget", "path"}
        Nodes of all chunks compete for one budget, or one path in every chunk (the paper).
    scorer : str, or an object that scores
        The score of every node: one of :data:`SCORERS`, or an object with the method of
        :class:`sharedllm.search.scorers.Scorer`.
    budget : int
        Token budget beyond the prompt's head and the question: injected KV entries plus
        evidence tokens.
    leaves : {"text", "kv"}
        The selected leaves enter as tokens of the running text, or as injected KV.
    coarse : {"none", "ready", "all"}
        The compressed remainder of the documents around the selected leaves: left out, where it
        is already encoded, or always (encoding what is missing first).
    coarse_share : float
        The share of `budget` that unexpanded roots may take.
    neighbours : tuple of float
        What share of the scores at distance 1, 2, ... is added to a leaf's (budget search).
    sentences : int
        Most tokens that a leaf pasted as text may gain on either side to hold whole sentences.
    """

    selection: Literal["budget", "path"] = "budget"
    scorer: Any = "maxsim"
    budget: int = 512
    leaves: Leaves = "text"
    coarse: Coarse = "none"
    coarse_share: float = 0.5
    neighbours: tuple[float, ...] = (0.5, 0.25)
    sentences: int = 32

    def __post_init__(self) -> None:
        one_of("selection", self.selection, SELECTIONS)
        if not callable(getattr(self.scorer, "score", None)):
            one_of("scorer", self.scorer, SCORERS)
        one_of("leaves", self.leaves, LEAVES)
        one_of("coarse", self.coarse, COARSE_LEVELS)
        number("coarse_share", self.coarse_share, least=0, most=1)
        object.__setattr__(self, "neighbours", several("neighbours", self.neighbours))
        for distance, share in enumerate(self.neighbours, start=1):
            number(f"the neighbours' share at distance {distance}", share, least=0, most=1)
        whole("sentences", self.sentences, least=0)
        if isinstance(self.budget, bool) or not isinstance(self.budget, int) or self.budget < 1:
            raise BudgetError(
                f"budget is {self.budget!r}; it must be a whole number of attention entries, "
                "at least 1"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationConfig(_Config):
    """How the answer is decoded. `temperature` 0 is greedy.

    Parameters
    ----------
    max_new_tokens : int
    temperature, top_p : float
    top_k : int
        0 keeps every token.
    repetition_penalty : float
        1 is none.
    stop : tuple of str
        The answer ends before the first of these.
    seed : int or None
        Makes sampling repeatable; None draws a fresh one.
    grammar : str
        A grammar of llguidance that the answer follows, such as
        ``{"grammars": [{"json_schema": {...}}]}``; empty is none.
    refusal_margin : float
        By how many nats a refusal ("not in the documents", as adapters learn it) must be ahead of
        every other beginning of an answer to be given: the higher, the fewer are given, right ones
        and wrong ones (docs/experiments.md, 24).
    list_penalty : float
        By how many nats each token is less likely that would repeat an item of a list, where an
        adapter answers from documents; 0 is none (docs/experiments.md, 25).
    graphs : bool or None
        Run the steps of an answer as a CUDA graph (docs/speed.md). None does so where it can and
        where answers may have more than a few tokens.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    grammar: str = ""
    refusal_margin: float = 0.0
    list_penalty: float = 2.0
    graphs: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.grammar, str):
            raise ConfigError(f"grammar is {self.grammar!r}; give llguidance's grammar as a str")
        if not (self.graphs is None or isinstance(self.graphs, bool)):
            raise ConfigError(f"graphs is {self.graphs!r}; it must be True, False or None")
        whole("max_new_tokens", self.max_new_tokens, least=1)
        number("temperature", self.temperature, least=0)
        number("top_p", self.top_p, least=0, most=1)
        whole("top_k", self.top_k, least=0)
        number("repetition_penalty", self.repetition_penalty, least=0.01)
        number("refusal_margin", self.refusal_margin, least=0)
        number("list_penalty", self.list_penalty, least=0)
        stop = (self.stop,) if isinstance(self.stop, str) else several("stop", self.stop)
        object.__setattr__(self, "stop", stop)
        if not all(isinstance(text, str) and text for text in stop):
            raise ConfigError(f"stop is {stop!r}; it must hold non-empty strings")
        if self.seed is not None:
            whole("seed", self.seed, least=0, most=2**63 - 1)


def changed(
    search: SearchConfig, generation: GenerationConfig, options: Mapping[str, Any]
) -> tuple[SearchConfig, GenerationConfig]:
    """Both settings with `options`, each a field of one of them, changed.

    Raises
    ------
    ConfigError
        For an option that neither has.
    """
    for_search = {f.name for f in dataclasses.fields(SearchConfig)}
    for_generation = {f.name for f in dataclasses.fields(GenerationConfig)}
    unknown = sorted(set(options) - for_search - for_generation)
    if unknown:
        allowed = ", ".join(sorted(for_search | for_generation))
        raise ConfigError(f"unknown option {', '.join(unknown)}; allowed: {allowed}")
    return (
        search.replace(**{k: v for k, v in options.items() if k in for_search}),
        generation.replace(**{k: v for k, v in options.items() if k in for_generation}),
    )
