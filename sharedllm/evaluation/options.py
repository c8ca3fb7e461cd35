"""The common options of ``sharedllm eval``, checked before a model is loaded; imports no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharedllm.arguments import check_fields, shown
from sharedllm.config import LARGEST, GenerationConfig, SearchConfig, require_int
from sharedllm.errors import ConfigError

BUDGETS = (1024, 2048, 5120)
NUMBER = re.compile(r"(\d{1,12})([kKmM]?)")
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20}


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The common options of ``sharedllm eval``.

    Attributes
    ----------
    model, adapter, device, dtype, quantize : as for :meth:`sharedllm.SharedLLM.from_pretrained`
    lengths : tuple of int
    budgets : tuple of int
        Token budgets. Empty takes the default ones that the model's window allows.
    baselines : str
    search : fields of SearchConfig that were given
    generation : fields of GenerationConfig that were given
    """

    model: str | None = None
    adapter: str | None = "default"
    lengths: tuple[int, ...] = ()
    budgets: tuple[int, ...] = ()
    baselines: str = "all"
    baseline_adapter: bool = False
    search: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)
    items: int = 20
    batch: int = 8
    seed: int = 0
    device: str | None = None
    dtype: str | None = None
    quantize: str | None = None
    as_json: bool = False
    out: Path | None = None

    def __post_init__(self) -> None:
        check_fields(self, ConfigError)
        SearchConfig.from_dict(self.search)  # raises for values that are not allowed
        GenerationConfig.from_dict(self.generation)
        for budget in self.budgets:
            require_int("--budget", budget, least=1)
        require_int("--items", self.items, least=1)
        require_int("--batch", self.batch, least=1)
        require_int("--seed", self.seed, least=0)
        out = self.out
        if out is not None and (out.is_dir() or not out.parent.is_dir()):
            raise ConfigError(f"--out is {str(out)!r}; give a file in a folder that exists")


def parse_sizes(option: str, given: Sequence[str], *, least: int = 0) -> tuple[int, ...]:
    """Parse numbers separated by commas, given once or several times; 4K is 4096, 1M 1048576.

    Raises
    ------
    ConfigError
    """
    out: list[int] = []
    for text in ",".join(given).split(",") if given else ():
        found = NUMBER.fullmatch(text.strip())
        size = int(found[1]) * UNITS[found[2].lower()] if found else -1
        if not least <= size <= LARGEST:
            raise ConfigError(
                f"{option} is {shown(','.join(given))}; give whole numbers of {least} to "
                f"{LARGEST} with commas between them (4096,16K,1M)"
            )
        out.append(size)
    return tuple(dict.fromkeys(out))


def require_share(option: str, value: float) -> float:
    """Return `value`; raise :class:`ConfigError` unless it is in [0, 1]."""
    if not 0 <= value <= 1:
        raise ConfigError(f"{option} is {value}; it must be between 0 and 1")
    return value
