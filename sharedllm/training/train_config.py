"""TrainConfig: a training run as one TOML file, validated; unknown keys are refused."""

from __future__ import annotations

import importlib
import random
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sharedllm.arguments import checked
from sharedllm.config import SearchConfig, TreeConfig
from sharedllm.errors import ConfigError
from sharedllm.training.examples import Example
from sharedllm.training.planted import planted

TASKS = ("lm", "planted", "qa", "summary")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Generator = Callable[[random.Random, str], Example]


def generator(task: str) -> Generator:
    """Return the function that makes examples of a generated task from filler text.

    `task` is "planted", or names a function of a module that can be imported, "module:function".

    Raises
    ------
    ConfigError
        If the function cannot be imported.
    """
    if task == "planted":
        return planted
    module, _, name = task.partition(":")
    try:
        found: Generator = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"task is {task!r}, which cannot be imported ({error}); give module:function, and "
            "start from a folder in which the module is found (python -m sharedllm train ...)"
        ) from error
    return found


class Source(_Strict):
    """One kind of example and its share of the mixture.

    `task` is "lm", "planted", "qa" or "summary" (with a `path` to rows of context, question,
    answer), or names a function of your own, "module:function": it takes a random generator and
    filler text, and gives an :class:`~sharedllm.training.examples.Example`. Rows whose `source`
    starts with one of `skip` are left out.
    """

    task: str
    weight: float = Field(gt=0)
    path: str = ""
    skip: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.task not in TASKS and ":" not in self.task:
            raise ValueError(
                f"task is {self.task!r}; allowed: {', '.join(TASKS)}, or module:function"
            )
        if (self.task in ("qa", "summary")) != bool(self.path):
            raise ValueError("a source has a path if, and only if, its task is 'qa' or 'summary'")
        if self.skip and not self.path:
            raise ValueError("only a source with a path has rows to skip")
        if self.task not in ("lm", "qa", "summary"):
            try:
                generator(self.task)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return self


class DataConfig(_Strict):
    """Data of a run: a weighted mixture of sources, and real text around them.

    `documents` are .jsonl(.xz) files of real text; `past_tokens` are the least and most tokens of
    past, `running_tokens` the tokens of running text of a language-modelling example.
    """

    documents: tuple[str, ...] = Field(min_length=1)
    sources: tuple[Source, ...] = Field(min_length=1)
    past_tokens: tuple[int, int] = (512, 8192)
    running_tokens: int = Field(default=1024, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        least, most = self.past_tokens
        if not 1 <= least <= most:
            raise ValueError(f"past_tokens is {self.past_tokens}; allowed: 1 <= least <= most")
        return self


class SelectionConfig(_Strict):
    """Random selection settings of each example, so that one set of weights serves every setting.

    Each example draws a token budget (log-uniform) and a form of its leaves. With probability
    `coarse` it has a coarse level; with probability `miss` its evidence is not preferred. Nodes
    split at N(l/2, (noise l)^2) (paper, section 3.2). `prompts` are pairs of a system message,
    which may be empty, and a user message, with {documents} and {question} in one of them; half of
    the examples use one of these, the others the library's own prompt.
    """

    budget: tuple[int, int] = (256, 2048)
    leaves: tuple[Literal["text", "kv"], ...] = ("text", "kv")
    coarse: float = Field(default=0.7, ge=0, le=1)
    miss: float = Field(default=0.05, ge=0, le=1)
    noise: float = Field(default=0.1, ge=0, le=0.5)
    prompts: tuple[tuple[str, str], ...] = ()

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for system, user in self.prompts:
            for name in ("{documents}", "{question}"):
                if (system + user).count(name) != 1:
                    raise ValueError(f"a prompt holds {name} once: {[system, user]}")
        return self


class Trained(_Strict):
    """Low-rank adapters of the lower and the upper model on one base."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32, gt=0)
    roles: tuple[Literal["lower", "upper"], ...] = Field(default=("lower", "upper"), min_length=1)
    answer_lead: str = ""


class QueryProjectionConfig(_Strict):
    """Training of the projection of a question's search vectors (``sharedllm train-search``).

    It ends after `steps`, or after `minutes` if these are over earlier.
    """

    steps: int = Field(default=2000, ge=1)
    minutes: float | None = Field(default=None, gt=0)
    batch: int = Field(default=48, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0)


class TrainConfig(_Strict):
    """A training run.

    `start` is an adapter to continue from. `minutes` ends the run early; the learning rate decays
    accordingly. `search` and `tree` hold fields of SearchConfig and TreeConfig, which become the
    adapter's defaults. Batches of more tokens than `checkpoint_above` recompute activations in the
    backward pass instead of keeping them (about 1 MB per token for a model of 135M parameters).
    `distil` is the weight of the KL divergence between predictions from leaves as KV and from the
    same leaves as text.
    """

    data: DataConfig
    out: str
    model: str | None = None
    start: str | None = None
    adapter: Trained = Trained()
    selection: SelectionConfig = SelectionConfig()
    search: dict[str, Any] = {}
    tree: dict[str, Any] = {}
    query_projection: QueryProjectionConfig = QueryProjectionConfig()
    mode: Literal["joint", "cross"] = "joint"
    layers: int | None = Field(default=None, ge=1)
    positions: Literal["ordinal", "chunk"] = "ordinal"
    steps: int = Field(default=1000, ge=1)
    minutes: float | None = Field(default=None, gt=0)
    batch: int = Field(default=8, ge=1)
    learning_rate: float = Field(default=3e-4, gt=0)
    warmup: float = Field(default=0.03, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    clip: float = Field(default=1.0, gt=0)
    checkpoint_above: int | None = Field(default=None, ge=0)
    distil: float = Field(default=0.0, ge=0)
    seed: int = Field(default=0, ge=0)
    workers: int = Field(default=2, ge=0)
    tensorboard: bool = True
    log_every: int = Field(default=10, ge=1)
    save_every: int = Field(default=500, ge=1)

    @model_validator(mode="after")
    def _searchable(self) -> Self:
        SearchConfig.from_dict(self.search)
        TreeConfig.from_dict(self.tree)
        return self


@checked()
def read_config(path: Path, data: Path | None = None) -> TrainConfig:
    """Read and check a TOML file.

    Parameters
    ----------
    data : folder at which relative data paths start; None is the file's own folder

    Raises
    ------
    ConfigError
        If the file is missing or a key is wrong; the message names every wrong key.
    """
    if not path.is_file():
        raise ConfigError(f"no such file: {str(path)!r}; give a TOML file")
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
        config = TrainConfig.model_validate(given)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'the file'}: {item['msg']}"
            for item in error.errors()
        )
        raise ConfigError(f"{path}: {wrong}") from error
    return _located(config, data or path.parent)


def _located(config: TrainConfig, folder: Path) -> TrainConfig:
    """Return `config` with its relative data paths under `folder`."""
    sources = tuple(
        source.model_copy(update={"path": str(folder / source.path)}) if source.path else source
        for source in config.data.sources
    )
    documents = tuple(str(folder / path) for path in config.data.documents)
    located = config.data.model_copy(update={"documents": documents, "sources": sources})
    return config.model_copy(update={"data": located})


@checked()
def require_data(config: TrainConfig) -> None:
    """Refuse a run whose data files are missing, before a model is loaded.

    Raises
    ------
    ConfigError
        If files are missing; the message names all of them.
    """
    paths = [*config.data.documents, *(source.path for source in config.data.sources)]
    missing = [path for path in dict.fromkeys(paths) if path and not Path(path).is_file()]
    if missing:
        raise ConfigError(
            f"missing files: {', '.join(map(repr, missing))}; relative paths start at --data, or "
            "else at the folder of the configuration"
        )
