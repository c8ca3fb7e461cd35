"""Errors of the adapters, beside those of the core.

::

    SharedLLMError
    └── IntegrationError
        ├── SetupError             an option that an adapter cannot use (also a ValueError)
        ├── ContentError           a message holds something other than text (also a ValueError)
        ├── DocumentValueError     a memory cannot hold a value of a document (also a ValueError)
        ├── DocumentReferenceError a reference names no document of this request (also a ValueError)
        ├── CapacityError          the documents are too long together (also a ValueError)
        ├── AnswerFormatError      the answer was cut, or not of its schema (also a ValueError)
        ├── RequestError           a request was refused; `cause` says why (never a ValueError)
        ├── AnswerTimeoutError     the answer took longer than `timeout` (also a TimeoutError)
        └── MissingFrameworkError  the framework is not installed (also an ImportError)

Each message says what was given, what is allowed and what to do.
"""

from __future__ import annotations

from sharedllm import SharedLLMError


class IntegrationError(SharedLLMError):
    """Base class of the adapters' own errors."""


class SetupError(IntegrationError, ValueError):
    """An adapter was given something that it cannot use."""


class ContentError(IntegrationError, ValueError):
    """A message holds something other than text and documents, or the last one no question."""


class DocumentValueError(IntegrationError, ValueError):
    """A memory cannot hold a value of a document; the message names document and field."""


class DocumentReferenceError(IntegrationError, ValueError):
    """A document reference without a text names no document that this request may read."""


class CapacityError(IntegrationError, ValueError):
    """The documents of a request are longer than what trees are kept for."""


class AnswerFormatError(IntegrationError, ValueError):
    """The answer was cut, or is not of the form that was asked for."""


class RequestError(IntegrationError):
    """A request was refused, in a framework that takes every ValueError for something else.

    Attributes
    ----------
    cause : Exception
        The error itself, whose message this one has.
    """

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class AnswerTimeoutError(IntegrationError, TimeoutError):
    """The answer was not complete in time."""


class MissingFrameworkError(IntegrationError, ImportError):
    """The framework that an adapter is for is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs {package!r}, which is not installed; "
            f"install it with: pip install 'sharedllm[{extra}]'"
        )
