"""The figures' module, where the extra that it needs is installed."""

from __future__ import annotations

from types import ModuleType

from sharedllm.errors import MissingExtraError


def figures() -> ModuleType:
    """:mod:`sharedllm.display.plot`.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    try:
        from sharedllm.display import plot
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "plot") from error
    return plot
