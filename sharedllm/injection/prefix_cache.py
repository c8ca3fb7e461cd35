"""Prefix cache: the KV of the text before the first injected KV, which a template repeats.

A pass over a few tokens reads every weight, as one over a thousand does, so that reading the
prefix anew would be a large part of the time to the first token.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor

from sharedllm.hf.architectures import WeightsState
from sharedllm.hf.cache import InjectionCache
from sharedllm.injection.positions import Prompt

KEPT = 4  # prefixes; one takes a few megabytes with a large model

# keys and values of each layer, (1, key/value heads, tokens, head dim)
Layers = list[tuple[Tensor, Tensor]]


class PrefixCache:
    """Keys and values of the last few prefixes, for as long as the weights do not change.

    Parameters
    ----------
    weights : tells when they change
    """

    def __init__(self, weights: WeightsState) -> None:
        self._weights = weights
        self._kept: OrderedDict[tuple[int, ...], Layers] = OrderedDict()
        self._state: tuple[bool, int] | None = None

    def fill(self, prompts: Sequence[Prompt], cache: InjectionCache) -> bool:
        """Put the prefix that all `prompts` share into the empty `cache`; False if not kept."""
        self._forget_if_changed(prompts)
        found = self._kept.get(prompts[0].text[0])
        if found is None:
            return False
        self._kept.move_to_end(prompts[0].text[0])
        for layer, (keys, values) in zip(cache.layers, found, strict=True):
            layer.update(*(x.expand(len(prompts), -1, -1, -1) for x in (keys, values)))
        return True

    def keep(self, prompts: Sequence[Prompt], cache: InjectionCache) -> None:
        """Keep the prefix in `cache`, which holds nothing else yet."""
        self._kept[prompts[0].text[0]] = [
            (keys.clone(), values.clone()) for keys, values in cache.first_row()
        ]
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def _forget_if_changed(self, prompts: Sequence[Prompt]) -> None:
        """Drop all prefixes if the weights or the role, which ``reads`` decides, have changed."""
        state = (prompts[0].reads, self._weights())
        if state != self._state:
            self._kept.clear()
            self._state = state


def have_shared_prefix(prompts: Sequence[Prompt]) -> bool:
    """Return True if all `prompts` have the same text before their first injected KV."""
    first = prompts[0].text
    return (
        len(first) > 1
        and bool(first[0])
        and all(len(p.text) == len(first) and p.text[0] == first[0] for p in prompts)
    )
