"""Reading GGUF files through transformers, but parsing them once.

transformers parses a GGUF file for the config, for the tokenizer and for the weights, each time
element by element through a memory map: 17 of the 22 seconds that the default model took.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import gguf
import numpy as np
from tqdm.auto import tqdm
from transformers import modeling_gguf_pytorch_utils as transformers_gguf

_swapping = threading.Lock()


class PlainReader(gguf.GGUFReader):
    """A GGUF reader that slices a plain array: a slice of a memmap costs ten times as much."""

    @property
    def data(self) -> Any:
        """The file's bytes, still mapped."""
        return self._plain

    @data.setter
    def data(self, mapped: Any) -> None:
        self._plain = mapped.view(np.ndarray)


@contextmanager
def parsed_once() -> Iterator[None]:
    """While open, transformers parses each GGUF file once, faster, and without a progress bar.

    transformers looks these names up each time it is called and has no parameter for them, so they
    are replaced and put back. What it reads is the same to the bit.
    """
    with _swapping, ExitStack() as stack:
        for owner, name, value in (
            (gguf, "GGUFReader", functools.cache(PlainReader)),
            (gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map)),
            (transformers_gguf, "tqdm", functools.partial(tqdm, disable=True)),
        ):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield
