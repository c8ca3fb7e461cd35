"""Two versions of one text -> the sentences that differ; no model is asked."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sharedllm.search.sentences import Span, content_words, sentences, trimmed
from sharedllm.text.normalise import normalise

ALIKE = 0.5  # share of the shorter text's sentences from which two texts are versions of one
SHORT = 200  # sentences of a text in which changed ones count for that, too: a form with new values
SAME = 0.6  # likeness of two sentences of which one is the other's new form
MOST = 100  # differences that are told
FEWEST = 4  # sentences of a text that can be a version of another


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A sentence of the first text, of the second, or one that changed from one to the other."""

    first: Span | None
    second: Span | None


def differences(first: str, second: str) -> list[Difference] | None:
    """Return what differs, in the order of the first text; None if they are no versions of one.

    White space and width of characters do not count.
    """
    own, other = _told(first), _told(second)
    alike = len(own.keys() & other.keys())
    fewest = min(len(own), len(other))
    if fewest < FEWEST or (alike < ALIKE * fewest and max(len(own), len(other)) > SHORT):
        return None
    gone = [key for key in own if key not in other]
    new = [key for key in other if key not in own]
    pairs = dict(_paired(gone, new))
    if alike < ALIKE * fewest and (not alike or alike + len(pairs) < ALIKE * fewest):
        return None
    found = [
        Difference(first=own[key], second=other[pairs[key]] if key in pairs else None)
        for key in gone
    ]
    taken = set(pairs.values())
    found += [Difference(first=None, second=other[key]) for key in new if key not in taken]
    return found


def _told(text: str) -> dict[str, Span]:
    """The sentences of a text by their words, each where it stands first."""
    found: dict[str, Span] = {}
    for span in sentences(text):
        start, end = trimmed(text, *span)
        key = " ".join(normalise(text[start:end]).text.split())
        if any(c.isalnum() for c in key):
            found.setdefault(key, (start, end))
    return found


def _paired(gone: Sequence[str], new: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Pair each sentence that is gone with the one that is most like it, if it is like it."""
    left = {key: content_words(key.lower()) for key in new}
    for key in gone:
        own = content_words(key.lower())
        near = sorted(left, key=lambda k: -len(own & left[k]))[:3]
        rated = [(difflib.SequenceMatcher(None, key, k, autojunk=False).ratio(), k) for k in near]
        best = max(rated, default=(0.0, ""))
        if best[0] >= SAME:
            del left[best[1]]
            yield key, best[1]
