from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sharedllm import GenerationConfig, InjectionConfig, SearchConfig, TreeConfig
from sharedllm.config import AdapterConfig
from sharedllm.errors import BudgetError, ConfigError

NAN, INFINITE = float("nan"), float("inf")
NOT_WHOLE: list[Any] = [0, -1, 1.5, NAN, True, "8", None]
NOT_NUMBER: list[Any] = [-0.1, NAN, INFINITE, True, "1", None]

BAD: list[tuple[type, str, list[Any]]] = [
    (TreeConfig, "chunk", NOT_WHOLE),
    (TreeConfig, "height", [-1, 1.5, NAN, False, "3", None]),
    (TreeConfig, "ratios", [(16, 8), (16, 8, 1, 1), (16, 8, 0.5), (16, NAN, 1), (16, True, 1), 5]),
    (TreeConfig, "root_ratio", [0.5, 0, *NOT_NUMBER]),
    (TreeConfig, "context", [-1, 1.5, True, "8", None]),
    (AdapterConfig, "abstaining", [101, -101, NAN, "1", True, None]),
    (AdapterConfig, "rank", NOT_WHOLE),
    (AdapterConfig, "alpha", [0, *NOT_NUMBER]),
    (AdapterConfig, "answer_lead", [None, 5, ["x"]]),
    (AdapterConfig, "roles", [(), ("middle",), "lower", None]),
    (InjectionConfig, "mode", ["Joint", "", None, 1, []]),
    (InjectionConfig, "positions", ["ordinals", None]),
    (InjectionConfig, "layers", [0, -1, 1.5, True, "4"]),
    (SearchConfig, "selection", ["greedy", None]),
    (SearchConfig, "scorer", ["max_sim", "", None]),
    (SearchConfig, "leaves", ["KV", None]),
    (SearchConfig, "coarse", ["some", True]),
    (SearchConfig, "budget", NOT_WHOLE),
    (SearchConfig, "max_budget", NOT_WHOLE),
    (SearchConfig, "max_leaves", [0, -1, 1.5, True, "8"]),
    (SearchConfig, "coarse_share", [1.01, *NOT_NUMBER]),
    (SearchConfig, "neighbours", [(1.01,), (0.5, NAN), (True,), ("1",), 0.3, None]),
    (SearchConfig, "rounds", NOT_WHOLE),
    (SearchConfig, "sentences", [-1, 1.5, True, None]),
    (SearchConfig, "scope", ["all", "Whole", None, 1]),
    (SearchConfig, "max_chunks", [0, -1, 1.5, True, "8"]),
    (SearchConfig, "max_seconds", [-1, "1", True, NAN]),
    (SearchConfig, "section", ["", "  ", 3, ["chapter 3"], True, "\ud800"]),
    (GenerationConfig, "max_new_tokens", NOT_WHOLE),
    (GenerationConfig, "temperature", NOT_NUMBER),
    (GenerationConfig, "top_p", [1.01, *NOT_NUMBER]),
    (GenerationConfig, "top_k", [-1, 1.5, True, None]),
    (GenerationConfig, "repetition_penalty", [0, *NOT_NUMBER]),
    (GenerationConfig, "stop", ["", ("a", ""), (1,), None, 3]),
    (GenerationConfig, "grammar", [{"type": "object"}, None, 3]),
    (GenerationConfig, "refusal_margin", [-1, *NOT_NUMBER]),
    (GenerationConfig, "list_penalty", [-1, *NOT_NUMBER]),
    (GenerationConfig, "thinking", [1, "yes", None]),
    (GenerationConfig, "graphs", [1, "yes"]),
    (GenerationConfig, "seed", [-1, 1.5, True, "1", 2**64]),
]
ALL = [TreeConfig, AdapterConfig, InjectionConfig, SearchConfig, GenerationConfig]
CASES = [(kind, name, value) for kind, name, values in BAD for value in values]


@pytest.mark.parametrize(("kind", "name", "value"), CASES)
def test_a_bad_value_is_named(kind: Any, name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as error:
        kind(**{name: value})
    assert name.split("_")[0].rstrip("s") in str(error.value)
    assert isinstance(error.value, ValueError)


@pytest.mark.parametrize("kind", ALL)
def test_every_option_has_bad_values_above_and_a_good_default(kind: Any) -> None:
    names = {field.name for field in dataclasses.fields(kind)}
    assert {name for k, name, _ in BAD if k is kind} == names
    config = kind()
    assert kind.from_dict(dataclasses.asdict(config)) == config
    assert config.replace() == config


@pytest.mark.parametrize("kind", [TreeConfig, InjectionConfig, SearchConfig, GenerationConfig])
def test_unknown_keys_are_refused_with_the_known_ones(kind: Any) -> None:
    first = dataclasses.fields(kind)[0].name
    with pytest.raises(ConfigError, match=rf"no option budgit, colour; known: {first}"):
        kind.from_dict({"colour": 1, "budgit": 2})
    with pytest.raises(ConfigError, match="no option colour"):
        kind().replace(colour=1)


def test_a_changed_copy_is_validated_and_the_first_one_stays() -> None:
    config = SearchConfig()
    assert config.replace(budget=7).budget == 7
    assert config.budget == SearchConfig().budget
    with pytest.raises(BudgetError, match="budget is 0"):
        config.replace(budget=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.budget = 3  # type: ignore[misc]


def test_a_path_has_no_most_leaves() -> None:
    with pytest.raises(ConfigError, match="max_leaves is given with selection='path'"):
        SearchConfig(selection="path", max_leaves=2)


def test_levels_and_ratios() -> None:
    tree = TreeConfig(height=2, ratios=[4, 1], root_ratio=32)  # type: ignore[arg-type]
    assert tree.ratios == (4, 1)
    assert [tree.ratio(level) for level in range(3)] == [32, 4, 1]
    assert TreeConfig(height=0, ratios=()).ratio(0) == 32


def test_one_stop_text_may_be_a_str() -> None:
    assert GenerationConfig(stop="END").stop == ("END",)  # type: ignore[arg-type]
    assert GenerationConfig(stop=["a", "b"]).stop == ("a", "b")  # type: ignore[arg-type]
