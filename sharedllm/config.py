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

from sharedllm.arguments import OPTIONS, is_finite, shown, unicode_problem
from sharedllm.errors import BudgetError, ConfigError

InjectionMode = Literal["joint", "cross"]
Positions = Literal["ordinal", "chunk"]
Leaves = Literal["text", "kv", "auto"]
Coarse = Literal["none", "ready", "all"]
ScopeOption = Literal["auto", "passages", "whole"]

INJECTION_MODES = ("joint", "cross")
POSITIONS = ("ordinal", "chunk")
LEAVES = ("text", "kv", "auto")
COARSE_LEVELS = ("none", "ready", "all")
SELECTIONS = ("budget", "path")
SCOPES = ("auto", "passages", "whole")
QUANTIZE = ("4bit", "8bit")
AUTO = "auto"  # the budget that follows the question
ROLES = ("lower", "upper")
LARGEST = 2**31 - 1  # of counts: tokens are counted in 32 bits
SCORERS = ("fused", "maxsim", "bm25", "embedding", "last_hidden", "recency")


def require_one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise :class:`ConfigError` unless `value` is one of `allowed`."""
    if not isinstance(value, str) or value not in allowed:
        raise ConfigError(f"{name} is {shown(value)}; allowed: {', '.join(map(repr, allowed))}")


def require_int(name: str, value: object, *, least: int, most: int = LARGEST) -> None:
    """Raise :class:`ConfigError` unless `value` is an integer in [`least`, `most`]."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        large = most < LARGEST or (isinstance(value, int) and value > most)
        limit = f" and at most {most}" if large else ""
        raise ConfigError(
            f"{name} is {shown(value)}; it must be a whole number of at least {least}{limit}"
        )


def as_tuple(name: str, value: object) -> tuple[Any, ...]:
    """Return `value` as a tuple; raise :class:`ConfigError` unless it is a list or a tuple."""
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{name} is {shown(value)}; it must be a list or a tuple")
    return tuple(value)


def require_number(name: str, value: object, *, least: float, most: float = math.inf) -> None:
    """Raise :class:`ConfigError` unless `value` is a finite number in [`least`, `most`]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not is_finite(value):
        raise ConfigError(f"{name} is {shown(value)}; it must be a finite number")
    if not least <= value <= most:
        bound = f"at least {least}" if most == math.inf else f"between {least} and {most}"
        raise ConfigError(f"{name} is {shown(value)}; it must be {bound}")


def require_section(value: object) -> None:
    """Raise :class:`ConfigError` unless `value` is None or may name a section."""
    if value is None:
        return
    if not isinstance(value, str) or not value.strip() or unicode_problem(value):
        raise ConfigError(
            f"section is {shown(value)}; give a section's title or number, such as 'chapter 3', or "
            "None for all of the text"
        )


class _Config:
    """Base of the settings: made from a mapping, which may hold no unknown key."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from a mapping; an unknown key raises :class:`ConfigError`."""
        known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        problem = OPTIONS.problem(values)
        if problem:
            raise ConfigError(f"the options of {cls.__name__} are {shown(values)}; {problem}")
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
        Tokens per chunk. One tree grows over each chunk.
    height : int
        Levels below the root. 0 keeps every chunk as one node.
    ratios : tuple of float
        Compression ratios of levels 1 to `height`: tokens per KV entry that is kept. 1 keeps the KV
        of every token.
    root_ratio : float
        Tokens per KV entry of a root that was not expanded.
    context : int
        Tokens of the chunk before a node that the lower model reads with it, without keeping their
        KV. 0 reads every node alone (the paper); `chunk` takes all nodes from one pass.
    """

    chunk: int = 1024
    height: int = 3
    ratios: tuple[float, ...] = (16, 8, 1)
    root_ratio: float = 32
    context: int = 0

    def __post_init__(self) -> None:
        require_int("chunk", self.chunk, least=1)
        require_int("height", self.height, least=0)
        object.__setattr__(self, "ratios", as_tuple("ratios", self.ratios))
        if len(self.ratios) != self.height:
            raise ConfigError(
                f"ratios has {len(self.ratios)} values {self.ratios}; "
                f"a tree of height {self.height} needs {self.height}, one a level below the root"
            )
        require_number("root_ratio", self.root_ratio, least=1)
        require_int("context", self.context, least=0)
        for level, ratio in enumerate(self.ratios, start=1):
            require_number(f"the ratio of level {level}", ratio, least=1)

    @property
    def leaf(self) -> int:
        """Tokens in a leaf of a full chunk."""
        return -(-self.chunk >> self.height)

    @property
    def leaf_ratio(self) -> float:
        """Tokens per KV entry of a leaf that was selected."""
        return self.ratio(self.height)

    def ratio(self, level: int) -> float:
        """Tokens per KV entry of a node at `level` (root = 0)."""
        return self.root_ratio if level == 0 else self.ratios[level - 1]


@dataclass(frozen=True, kw_only=True, slots=True)
class InjectionConfig(_Config):
    """The way in which selected nodes enter the upper model as KV (paper, section 3.3).

    Parameters
    ----------
    mode : {"joint", "cross"}
        One softmax over injected KV and the prompt's own, or the paper's separate cross-attention.
    layers : int or None
        Injection layers M, counted from the bottom; None means all layers.
    positions : {"ordinal", "chunk"}
        Rotary positions of injected KV entries: numbered in prompt order, or all entries of chunk
        i at i (the paper).
    """

    mode: InjectionMode = "joint"
    layers: int | None = None
    positions: Positions = "ordinal"

    def __post_init__(self) -> None:
        require_one_of("mode", self.mode, INJECTION_MODES)
        require_one_of("positions", self.positions, POSITIONS)
        if self.layers is not None:
            require_int("layers", self.layers, least=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterConfig(_Config):
    """Low-rank adapters (LoRA) of the two roles on one base.

    Parameters
    ----------
    rank : int
    alpha : float
        The low-rank addition is scaled by alpha / rank.
    roles : tuple of {"lower", "upper"}
        The roles that have an adapter. A role without one runs the base.
    answer_lead : str
        Text that begins every answer from documents, learned but never shown. A space makes the
        first word the same token as in the middle of a text, so that it can be copied.
    abstaining : float
        Nats that are added to abstaining at the first token of an answer from documents, found on
        questions with and without an answer (docs/experiments.md, 43).
    """

    rank: int = 16
    alpha: float = 32
    roles: tuple[str, ...] = ROLES
    answer_lead: str = ""
    abstaining: float = 0.0

    def __post_init__(self) -> None:
        require_number("abstaining", self.abstaining, least=-100, most=100)
        if not isinstance(self.answer_lead, str):
            raise ConfigError(f"answer_lead is {shown(self.answer_lead)}; it must be a text")
        require_int("rank", self.rank, least=1)
        require_number("alpha", self.alpha, least=1e-6)
        object.__setattr__(self, "roles", as_tuple("roles", self.roles))
        if not self.roles:
            raise ConfigError("roles is empty; give 'lower', 'upper' or both")
        for role in self.roles:
            require_one_of("a role", role, ROLES)


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig(_Config):
    """Search: the score of nodes, and the selection under a token budget.

    Parameters
    ----------
    selection : {"budget", "path"}
        "budget": nodes of all chunks compete for one token budget. "path": one path down every
        chunk (the paper, section 3.2).
    scorer : str or object
        One of :data:`SCORERS`, or an object with the method of
        :class:`sharedllm.search.scorers.Scorer`.
    budget : int or "auto"
        Token budget: tokens pasted as evidence plus injected KV entries. The rest of the prompt
        does not count. "auto" follows the question and the scores, and looks a second time where
        the first look is refused or unsure (:mod:`sharedllm.search.budget`).
    max_budget : int
        The most that "auto" takes; a fixed budget may be larger.
    max_leaves : int or None
        Leaves that are selected, at most, whatever the budget ("budget" selection); neighbouring
        ones are one passage.
    leaves : {"text", "kv", "auto"}
        Selected leaves enter the prompt as text, or as injected KV. "auto" is KV on a CUDA GPU
        where all documents come from memories that store their leaves (``keep="leaves"``), else
        text; it is the setting of an adapter that reads KV as well as text.
    coarse : {"none", "ready", "all"}
        The coarse level, which is the compressed rest of each document around the selected leaves:
        left out, used where it is encoded already, or always used (encoded first if need be).
    coarse_share : float
        Share of `budget` that unexpanded roots may take.
    neighbours : tuple of float
        Shares of the scores of the leaves at distance 1, 2, ... that are added to a leaf's own
        ("budget" selection).
    rounds : int
        Rounds of search, at most. After the first, the names and codes that the best passage holds
        are searched for as well (:mod:`sharedllm.search.rounds`), where the scorer is "fused" and
        the selection "budget". 1 searches once.
    sentences : int
        A leaf pasted as text is completed to whole sentences by at most this many tokens on either
        side.
    scope : {"auto", "passages", "whole"}
        What a question reads: the passages that search selects, or all of its documents. "auto" is
        the whole where the question asks for a summary, for all of something, a count, a comparison
        or an order of events (:mod:`sharedllm.whole.scope`).
    max_chunks : int or None
        Chunks that a reading of the whole may read, at most; the answer is then marked as partial.
    max_seconds : float or None
        Seconds after which it reads no further; the answer is then marked as partial.
    section : str or None
        Search only the sections that this names: by number ("3.2", "chapter 3"), by title, or by a
        path of these ("Part II > Chapter 3"); see :func:`sharedllm.text.outline.sections_named`.
    """

    selection: Literal["budget", "path"] = "budget"
    scorer: Any = "fused"
    budget: int | Literal["auto"] = "auto"
    max_budget: int = 2048
    max_leaves: int | None = None
    leaves: Leaves = "text"
    coarse: Coarse = "none"
    coarse_share: float = 0.5
    neighbours: tuple[float, ...] = (0.5, 0.25)
    rounds: int = 8
    sentences: int = 32
    scope: ScopeOption = "auto"
    max_chunks: int | None = None
    max_seconds: float | None = None
    section: str | None = None

    def __post_init__(self) -> None:
        require_one_of("selection", self.selection, SELECTIONS)
        if not callable(getattr(self.scorer, "score", None)):
            require_one_of("scorer", self.scorer, SCORERS)
        require_one_of("leaves", self.leaves, LEAVES)
        require_one_of("coarse", self.coarse, COARSE_LEVELS)
        require_number("coarse_share", self.coarse_share, least=0, most=1)
        object.__setattr__(self, "neighbours", as_tuple("neighbours", self.neighbours))
        for distance, share in enumerate(self.neighbours, start=1):
            require_number(f"the neighbours' share at distance {distance}", share, least=0, most=1)
        require_int("rounds", self.rounds, least=1)
        require_int("sentences", self.sentences, least=0)
        require_one_of("scope", self.scope, SCOPES)
        if self.max_chunks is not None:
            require_int("max_chunks", self.max_chunks, least=1)
        if self.max_seconds is not None:
            require_number("max_seconds", self.max_seconds, least=0)
        if self.max_leaves is not None:
            require_int("max_leaves", self.max_leaves, least=1)
            if self.selection == "path":
                raise ConfigError(
                    "max_leaves is given with selection='path', which takes leaves of every chunk; "
                    "leave one of them out"
                )
        require_section(self.section)
        try:
            require_int("max_budget", self.max_budget, least=1)
            if not isinstance(self.budget, str) or self.budget != AUTO:
                require_int("budget", self.budget, least=1)
        except ConfigError as error:
            also = f", or {AUTO!r}" if str(error).startswith("budget") else ""
            raise BudgetError(f"{error}{also}") from None

    @property
    def fixed_budget(self) -> int:
        """The budget in tokens; "auto" has to be decided first, from a question and its scores."""
        if not isinstance(self.budget, int):
            raise ConfigError(
                f"budget is {AUTO!r}, and tokens are needed here; give a whole number"
            )
        return self.budget


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationConfig(_Config):
    """Decoding of the answer.

    Parameters
    ----------
    max_new_tokens : int
    temperature, top_p : float
        Temperature 0 decodes greedily.
    top_k : int
        0 keeps every token.
    repetition_penalty : float
        1 turns it off.
    stop : tuple of str
        The answer ends before the first of these.
    seed : int or None
        Makes sampling repeatable; None draws a fresh seed.
    grammar : str
        A grammar of llguidance that the answer follows, such as
        ``{"grammars": [{"json_schema": {...}}]}``; empty leaves the answer free.
    refusal_margin : float
        Margin, in nats, by which abstaining ("not in the documents", as adapters learn it) must
        beat every other first token. A higher margin abstains less often, rightly and wrongly
        (docs/experiments.md, 24).
    list_penalty : float
        Penalty, in nats, on each token that would repeat an item of a list, where an adapter
        answers from documents; 0 turns it off (docs/experiments.md, 25).
    thinking : bool
        Let a model think before it answers, if its chat template can turn that off. Thoughts are
        never part of the answer's text: ``Answer.reasoning`` has them. They count as new tokens.
    graphs : bool or None
        Decode with a CUDA graph (docs/speed.md). None does so where the device allows it and the
        answer may have more than a few tokens.
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
    thinking: bool = False
    graphs: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.grammar, str):
            raise ConfigError(f"grammar is {shown(self.grammar)}; give llguidance's as a str")
        if not (self.graphs is None or isinstance(self.graphs, bool)):
            raise ConfigError(f"graphs is {shown(self.graphs)}; it must be True, False or None")
        if not isinstance(self.thinking, bool):
            raise ConfigError(f"thinking is {shown(self.thinking)}; it must be True or False")
        require_int("max_new_tokens", self.max_new_tokens, least=1)
        require_number("temperature", self.temperature, least=0)
        require_number("top_p", self.top_p, least=0, most=1)
        require_int("top_k", self.top_k, least=0)
        require_number("repetition_penalty", self.repetition_penalty, least=0.01)
        require_number("refusal_margin", self.refusal_margin, least=0)
        require_number("list_penalty", self.list_penalty, least=0)
        stop = (self.stop,) if isinstance(self.stop, str) else as_tuple("stop", self.stop)
        object.__setattr__(self, "stop", stop)
        if not all(isinstance(text, str) and text for text in stop):
            raise ConfigError(f"stop is {shown(stop)}; it must hold non-empty strings")
        for text in (self.grammar, *stop):
            problem = unicode_problem(text)
            if problem:
                raise ConfigError(f"grammar or stop holds {shown(text)}: {problem}")
        if self.seed is not None:
            require_int("seed", self.seed, least=0, most=2**63 - 1)


def with_options(
    search: SearchConfig, generation: GenerationConfig, options: Mapping[str, Any]
) -> tuple[SearchConfig, GenerationConfig]:
    """Return both settings with `options` changed, each of them a field of one of the two.

    Raises
    ------
    ConfigError
        If an option is a field of neither.
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
