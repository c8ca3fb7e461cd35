"""What the four commands have in common, checked before a model is loaded; light to import."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharedllm.config import GenerationConfig, SearchConfig, whole
from sharedllm.errors import ConfigError, MissingExtraError

BUDGETS = (1024, 2048, 5120)
NUMBER = re.compile(r"(\d+)([kKmM]?)")
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20}


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The common options of ``sharedllm eval``.

    Attributes
    ----------
    model, adapter, device, dtype : as for :meth:`sharedllm.SharedLLM.from_pretrained`
    lengths : tuple of int
    budgets : tuple of int
        Empty: the default ones that the model's window allows.
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
    yarn_limit: int = 16
    streaming_window: int | None = None
    device: str | None = None
    dtype: str | None = None
    as_json: bool = False
    out: Path | None = None
    plot: Path | None = None

    def __post_init__(self) -> None:
        SearchConfig(**self.search)  # refuses what is not allowed
        GenerationConfig(**self.generation)
        for budget in self.budgets:
            whole("--budget", budget, least=1)
        whole("--items", self.items, least=1)
        whole("--batch", self.batch, least=1)
        whole("--seed", self.seed, least=0)
        whole("--yarn-limit", self.yarn_limit, least=1)
        for option, path in (("--out", self.out), ("--plot", self.plot)):
            if path is not None and (path.is_dir() or not path.parent.is_dir()):
                raise ConfigError(f"{option} is {str(path)!r}; give a file in a folder that exists")
        if self.plot is not None:
            require_matplotlib(self.plot)


def require_matplotlib(path: Path) -> None:
    """Refuse a plot that cannot be made before hours of work."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ModuleNotFoundError as error:
        raise MissingExtraError("matplotlib", "eval") from error
    allowed = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix.lstrip(".").lower() not in allowed:
        raise ConfigError(
            f"--plot is {str(path)!r}; its ending must be one of {', '.join(allowed)}"
        )


def sizes(option: str, given: Sequence[str], *, least: int = 0) -> tuple[int, ...]:
    """Numbers with commas between them, given once or several times; 4K is 4096, 1M 1048576.

    Raises
    ------
    ConfigError
    """
    out: list[int] = []
    for text in ",".join(given).split(",") if given else ():
        found = NUMBER.fullmatch(text.strip())
        if not found or int(found[1]) * UNITS[found[2].lower()] < least:
            raise ConfigError(
                f"{option} is {','.join(given)!r}; give whole numbers of at least {least} with "
                "commas between them (4096,16K,1M)"
            )
        out.append(int(found[1]) * UNITS[found[2].lower()])
    return tuple(dict.fromkeys(out))


def share(option: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ConfigError(f"{option} is {value}; it must be between 0 and 1")
    return value
