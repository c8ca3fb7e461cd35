"""What a call with a bad value may do: work, or raise an error of ours that can be read."""

from __future__ import annotations

import asyncio
import inspect
import os
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from sharedllm import SharedLLMError

FEW = 200  # pieces that are taken of what a call returns piece by piece
OURS = (SharedLLMError, ValidationError)  # pydantic's names the field, and what it may be


def outcome(call: Any, arguments: dict[str, Any]) -> str:
    """Make a call, and take what it returns; "" where it did as it should."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _taken(call(**arguments))
    except OURS as error:
        return "" if str(error).strip() else f"{type(error).__name__} without a message"
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if f"{os.sep}sharedllm" in f.filename]
        if not own:  # a framework's own, which was raised before anything of ours ran
            return ""
        where = f"{own[-1].filename.rpartition('/sharedllm')[2]}:{own[-1].lineno}"
        return f"{type(error).__name__}: {_short(error)} at {where}"
    return ""


def _taken(given: Any) -> None:
    if inspect.iscoroutine(given):
        given = asyncio.run(given)
    if isinstance(given, Iterator):
        for _, _piece in zip(range(FEW), given, strict=False):
            pass


def _short(error: Exception) -> str:
    try:
        return str(error).replace("\n", " ")[:90]
    except Exception:
        return "(a message that cannot be shown)"
