"""The hook through which a notebook and rich's console show a value.

A value (context trees, a document, a selection, an answer) stands below what draws it and cannot
import it. It inherits :class:`Displayed`, which looks its type up in the table :func:`view`. The
table is filled from above: by :mod:`sharedllm.display.views` for all values below that folder, and
beside their classes for those above it. IPython and rich know no way to register a renderer for a
type before they run, hence this one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple


class View(NamedTuple):
    """Two renderers of one value, called when they are needed.

    Attributes
    ----------
    html : returns the HTML of a notebook's cell
    console : returns a rich renderable (typed Any, so that rich need not be imported)
    """

    html: Callable[[], str]
    console: Callable[[], Any]


@functools.singledispatch
def view(value: object) -> View | None:
    """Return the renderers of `value` by its type; None where no renderer is loaded."""
    return None


class Displayed:
    """A value that a notebook and rich's console draw; its ordinary repr without a renderer."""

    __slots__ = ()

    def _repr_html_(self) -> str | None:
        found = view(self)
        return found.html() if found else None  # IPython then shows the repr

    def __rich__(self) -> Any:
        found = view(self)
        if found:
            return found.console()
        from rich.markup import escape  # rich is what calls, so it is installed

        return escape(repr(self))  # rich reads markup in a plain str
