"""Text -> token ids with their character spans."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sharedllm.errors import DocumentError
from sharedllm.text.normalise import normalise


class Tokenizer(Protocol):
    """The part of a fast Hugging Face tokenizer that is used outside of hf/."""

    bos_token: Any
    bos_token_id: Any
    eos_token_id: Any
    chat_template: Any
    all_special_ids: Any
    all_special_tokens: Any
    added_tokens_decoder: Any
    backend_tokenizer: Any

    def __len__(self) -> int:
        """Size of the vocabulary, added tokens included."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Token ids, offsets and masks of texts."""
        ...

    def decode(self, *args: Any, **kwargs: Any) -> Any:
        """The text of token ids."""
        ...

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
        """Messages in the model's chat format."""
        ...

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Write the tokenizer into a folder."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """A text's tokens.

    Attributes
    ----------
    ids : int32 array, shape (T,)
    spans : int32 array, shape (T, 2)
        Characters [start, end) of the text that each token covers.
    """

    ids: NDArray[np.int32]
    spans: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.ids)

    def characters(self, start: int, end: int) -> tuple[int, int]:
        """Characters [start, end) that the tokens [`start`, `end`) cover."""
        if start >= end:
            return (0, 0)
        return int(self.spans[start:end, 0].min()), int(self.spans[start:end, 1].max())


def tokenize(text: str, tokenizer: Tokenizer) -> Tokens:
    """Tokenise `text` without special tokens.

    The text is read normalised (:func:`sharedllm.text.normalise.normalise`); spans count characters
    of `text` itself.
    The spelling of a special token (a document may show ``<|im_end|>``) is read as plain
    characters, so that no document can end a chat turn.

    Raises
    ------
    DocumentError
        If `text` is empty, only white space, invalid Unicode, or gives no token.
    """
    if not isinstance(text, str):
        raise DocumentError(f"a document's text is a str; {type(text).__name__} was given")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DocumentError(
            f"the text is not valid Unicode: character {error.start} is half of a surrogate pair; "
            "decode the file with its own encoding, or with errors='replace'"
        ) from error
    read = normalise(text)
    if not read.text.strip():
        raise DocumentError("the document has no text: it is empty or only white space")
    # verbose=False: a text longer than the window is the normal case here, not a mistake.
    encoded = tokenizer(
        read.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    ids, spans = encoded["input_ids"], encoded["offset_mapping"]
    if not set(special_tokens(tokenizer).values()).isdisjoint(ids):
        ids, spans = _without_special(read.text, tokenizer)
    if not ids:
        raise DocumentError("the tokenizer gives no token for this text")
    places = read.original(np.asarray(spans, dtype=np.int32))
    return Tokens(ids=np.asarray(ids, dtype=np.int32), spans=places)


def special_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """Return spelling -> id of every special token: chat turns, ends, padding."""
    added = tokenizer.added_tokens_decoder.items()
    special = {token.content: token_id for token_id, token in added if token.special}
    return special | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))


def _without_special(text: str, tokenizer: Tokenizer) -> tuple[list[int], list[tuple[int, int]]]:
    """Tokenise on a copy of the backend: its setting would show in other threads."""
    plain = copy.deepcopy(tokenizer.backend_tokenizer)
    plain.no_truncation()
    plain.encode_special_tokens = True
    encoding = plain.encode(text, add_special_tokens=False)
    return encoding.ids, encoding.offsets
