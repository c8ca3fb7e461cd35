"""Who may run the model: one at a time, questions before background work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """A lock on the model that background work takes only while no question is open.

    Attributes
    ----------
    model : threading.RLock
        Held while the model runs.
    """

    def __init__(self) -> None:
        self.model = threading.RLock()
        self._quiet = threading.Condition()
        self._open = 0

    @contextmanager
    def question(self) -> Iterator[None]:
        """Keep background work waiting from here to the end of the block."""
        with self._quiet:
            self._open += 1
        try:
            yield
        finally:
            with self._quiet:
                self._open -= 1
                self._quiet.notify_all()

    def wait(self) -> None:
        """Return once no question is open."""
        with self._quiet:
            self._quiet.wait_for(lambda: not self._open)
