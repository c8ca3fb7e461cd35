"""The text in front of the first memory, read once: a template's beginning is the same every time.

A pass over a few tokens reads every weight, as one over a thousand does, so that reading the head
anew would be a large part of a question's first token.

Shapes: B batch, G key/value heads, T tokens of the head, D head dim.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sharedllm.hf.architectures import weights_state
from sharedllm.hf.cache import InjectionCache
from sharedllm.injection.positions import Prompt

KEPT = 4  # heads; one is a few megabytes for a large model

Layers = list[tuple[Tensor, Tensor]]


class PrefixCache:
    """Keys and values of the last few heads, for as long as the model's weights stay as they are.

    Parameters
    ----------
    model : the transformers causal LM
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._kept: OrderedDict[tuple[int, ...], Layers] = OrderedDict()
        self._state: tuple[bool, int] | None = None

    def fill(self, prompts: Sequence[Prompt], cache: InjectionCache) -> bool:
        """Put the head that all `prompts` share into the empty `cache`; whether it was there."""
        self._forget_if_changed(prompts)
        found = self._kept.get(prompts[0].text[0])
        if found is None:
            return False
        self._kept.move_to_end(prompts[0].text[0])
        for layer, (keys, values) in zip(cache.layers, found, strict=True):
            layer.update(*(x.expand(len(prompts), -1, -1, -1) for x in (keys, values)))
        return True

    def keep(self, prompts: Sequence[Prompt], cache: InjectionCache) -> None:
        """Take the head out of `cache`, which holds nothing else yet."""
        self._kept[prompts[0].text[0]] = [
            (keys.clone(), values.clone()) for keys, values in cache.first_row()
        ]
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def _forget_if_changed(self, prompts: Sequence[Prompt]) -> None:
        """`reads` decides which role the model plays."""
        state = (prompts[0].reads, weights_state(self._model))
        if state != self._state:
            self._kept.clear()
            self._state = state


def shared_head(prompts: Sequence[Prompt]) -> bool:
    """Whether all `prompts` begin with the same text before their first memory."""
    first = prompts[0].text
    return (
        len(first) > 1
        and bool(first[0])
        and all(len(p.text) == len(first) and p.text[0] == first[0] for p in prompts)
    )
