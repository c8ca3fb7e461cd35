"""Model lock: one forward pass at a time, questions before background encoding."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class ModelLock:
    """A lock on the model that background work takes only while no question is open.

    Attributes
    ----------
    forward : threading.RLock
        Held during a forward pass.
    """

    def __init__(self) -> None:
        self.forward = threading.RLock()
        self._idle = threading.Condition()
        self._questions = 0

    @contextmanager
    def question(self) -> Iterator[None]:
        """Keep background work waiting from here to the end of the block."""
        with self._idle:
            self._questions += 1
        try:
            yield
        finally:
            with self._idle:
                self._questions -= 1
                self._idle.notify_all()

    def wait_for_idle(self) -> None:
        """Return once no question is open."""
        with self._idle:
            self._idle.wait_for(lambda: not self._questions)
