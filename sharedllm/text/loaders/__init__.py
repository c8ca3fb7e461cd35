"""Files -> text: a reader for every format, and rows of JSON Lines for training and evaluation."""

from sharedllm.text.loaders.encodings import require_encoding
from sharedllm.text.loaders.files import STDIN, is_read, read_file, spelled
from sharedllm.text.loaders.records import read_rows
from sharedllm.text.loaders.source import SourceText

__all__ = [
    "STDIN",
    "SourceText",
    "is_read",
    "read_file",
    "read_rows",
    "require_encoding",
    "spelled",
]
