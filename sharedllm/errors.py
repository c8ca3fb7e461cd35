"""The errors that SharedLLM raises on purpose.

::

    SharedLLMError
    ├── ConfigError            an option has a value that is not allowed (also a ValueError)
    │   └── BudgetError        no node fits the token budget
    ├── InputError             a question, text or message cannot be used (also a ValueError)
    │   ├── DocumentError      a file or text cannot become a document
    │   ├── SectionError       no document has the section that is asked for
    │   └── WindowError        the prompt does not fit the model's trained window
    ├── ModelError
    │   ├── ModelNotFoundError the weights are not there
    │   ├── ModelTooLargeError the weights do not fit into the memory of the device
    │   ├── UnsupportedModelError  the architecture or a setting of it is not supported
    │   ├── AdapterError       the adapter is not there, is broken, or fits another model
    │   └── ReaderError        an endpoint that reads elsewhere gave no answer
    ├── TreeMemoryError        a memory's folder cannot be used
    │   ├── TreeMemoryFormatError   the folder holds something else, or another format version
    │   ├── TreeMemoryMismatchError it was made by another model or with other settings
    │   ├── TreeMemoryBusyError     another process is writing to it
    │   └── TreeMemoryDamagedError  something in it is broken or missing
    └── MissingExtraError      an optional package is not installed (also an ImportError)

Each message says what was given, what is allowed and what to do. An argument of another type than
a function takes is an InputError, and a ConfigError where it is given by its name only; text that
is not valid Unicode, NaN and paths that cannot exist are refused in the same way.
"""

from __future__ import annotations


class SharedLLMError(Exception):
    """Base class of every error raised by this package."""


class ConfigError(SharedLLMError, ValueError):
    """An option has a value that is not allowed."""


class BudgetError(ConfigError):
    """The token budget is not allowed, or not even one node fits it."""


class InputError(SharedLLMError, ValueError):
    """A question, a text or a message cannot be used."""


class DocumentError(InputError):
    """A file or a text cannot become a document."""


class SectionError(InputError):
    """No document has a section of that name or number; the message names the nearest ones."""


class WindowError(InputError):
    """The prompt, with memory and answer, does not fit the model's trained window."""


class ModelError(SharedLLMError):
    """The model cannot be loaded or used."""


class ModelNotFoundError(ModelError):
    """The weights are not where they were looked for."""


class ModelTooLargeError(ModelError):
    """The weights do not fit into the memory of the device."""


class UnsupportedModelError(ModelError):
    """The model's architecture, or a setting of it, is not supported."""


class AdapterError(ModelError):
    """The adapter is not there, is broken, or belongs to another model."""


class ReaderError(ModelError):
    """A reader elsewhere gave no answer: it is down, refuses the key, broke off, ..."""


class TreeMemoryError(SharedLLMError):
    """A tree memory's folder cannot be used, or not be written."""


class TreeMemoryFormatError(TreeMemoryError):
    """The folder is not a tree memory, or has another format version."""


class TreeMemoryMismatchError(TreeMemoryError):
    """The tree memory was made by another model or with other settings."""


class TreeMemoryBusyError(TreeMemoryError):
    """Another process is writing to the tree memory."""


class TreeMemoryDamagedError(TreeMemoryError):
    """Something in the tree memory is broken or missing; the message names it."""


class MissingExtraError(SharedLLMError, ImportError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package {package!r}, which is not installed; "
            f"install it with: pip install 'sharedllm[{extra}]'"
        )
