"""Bad values of every kind, by name; the fuzzers put each into every argument."""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Unprintable:
    """A value that cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class Anything:
    """Takes everything, as a function of the user's would."""

    def __init__(self, *args: Any) -> None:
        pass


class Colour(enum.Enum):
    RED = "red"


# Made anew for each call: a generator, for one, is spent by the first.
VALUES: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "False": lambda: False,
    "0": lambda: 0,
    "1": lambda: 1,
    "-1": lambda: -1,
    "2**31": lambda: 2**31,
    "2**63": lambda: 2**63,
    "2**64": lambda: 2**64,
    "-2**63 - 1": lambda: -(2**63) - 1,
    "10**400": lambda: 10**400,
    "10**5000": lambda: 10**5000,
    "0.5": lambda: 0.5,
    "-0.5": lambda: -0.5,
    "1e308": lambda: 1e308,
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "-inf": lambda: -math.inf,
    "complex": lambda: 1j,
    "Decimal": lambda: decimal.Decimal("1.5"),
    "Fraction": lambda: fractions.Fraction(1, 3),
    "empty str": lambda: "",
    "white space": lambda: " \n\t",
    "str": lambda: "x",
    "number as str": lambda: "8",
    "half of a surrogate pair": lambda: "a\ud800b",
    "undecodable byte": lambda: "a\udcffb",
    "NUL": lambda: "a\0b",
    "long str": lambda: "x" * 5000,
    "empty bytes": lambda: b"",
    "bytes": lambda: b"x",
    "bytearray": lambda: bytearray(b"x"),
    "empty list": list,
    "[None]": lambda: [None],
    "[str]": lambda: ["x"],
    "[surrogate]": lambda: ["a\ud800b"],
    "[int]": lambda: [1],
    "[nan]": lambda: [math.nan],
    "nested list": lambda: [[["x"]]],
    "empty tuple": tuple,
    "empty dict": dict,
    "dict": lambda: {"a": 1},
    "dict by int": lambda: {1: "a"},
    "dict of surrogates": lambda: {"a\ud800": "b\ud800"},
    "dict of a large int": lambda: {"a": 2**70},
    "dict of a date": lambda: {"a": datetime.date(2020, 1, 1)},
    "set": lambda: {"x"},
    "generator": lambda: (one for one in ("x", 1)),
    "range": lambda: range(3),
    "object": object,
    "unprintable": Unprintable,
    "class": lambda: Anything,
    "function": lambda: lambda *args: 1,
    "Enum": lambda: Colour.RED,
    "date": lambda: datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
    "Path": lambda: Path("no such file"),
    "Path with NUL": lambda: Path("a\0b"),
    "numpy int": lambda: np.int64(3),
    "numpy float": lambda: np.float32(0.5),
    "numpy bool": lambda: np.bool_(True),
    "numpy str": lambda: np.str_("x"),
    "numpy array": lambda: np.array([1.0, 2.0]),
    "numpy object array": lambda: np.array(["x", None], dtype=object),
    "tensor": lambda: torch.zeros(2),
    "Ellipsis": lambda: ...,
    "Exception": lambda: ValueError("x"),
}
