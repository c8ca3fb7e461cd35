"""Faults of an endpoint -> one typed line that says what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sharedllm.errors import ReaderError, WindowError
from sharedllm.generation.logits_processors import Row

if TYPE_CHECKING:
    from sharedllm.readers.address import Endpoint

SHOWN = 300  # characters of a server's own message
LEAVABLE = (  # parameters without which an answer is still what was asked for
    "chat_template_kwargs",
    "stream_options",
    "max_tokens",  # newer models of OpenAI's call it max_completion_tokens
    "temperature",
    "response_format",  # the prompt asks for the form as well, and the answer is checked
)
REFUSED = re.compile(
    r"unsupported|not supported|unrecognized|unknown|unexpected|extra (?:inputs|fields)|"
    r"not permitted|invalid|not allowed",
    re.IGNORECASE,
)
TOO_LONG = re.compile(
    r"context[ _](?:length|window|size)|maximum (?:context|model|sequence) length|"
    r"(?:prompt|input) is too long|too many (?:input )?tokens|max_model_len|n_ctx|token limit|"
    r"maximum number of tokens|max_new_tokens. must be|reduce the length of",
    re.IGNORECASE,
)
NO_TOOLS = re.compile(
    r"(?:not|n't) support (?:\w+ )?(?:tool|function)|tool[^.]{0,60}(?:not supported|unsupported)|"
    r"(?:not supported|unsupported)[^.]{0,40}tool|tool[_ -]?(?:call|choice)[^.]{0,60}requires",
    re.IGNORECASE,
)


def refused(error: Any, given: Collection[str]) -> str | None:
    """Return the parameter that a server refuses by its name, if it can be left out."""
    if error.status_code not in (400, 422) or TOO_LONG.search(_message(error)):
        return None
    text = _message(error)
    named = getattr(error, "param", None)
    for name in LEAVABLE:
        if name in given and (named == name or (name in text and REFUSED.search(text))):
            return name
    return None


@contextmanager
def told(endpoint: Endpoint, row: Row | None = None) -> Iterator[None]:
    """Raise the errors of an endpoint as ours.

    Parameters
    ----------
    row : the answer so far

    Raises
    ------
    ReaderError, WindowError
    """
    import openai

    where = endpoint.url
    try:
        yield
    except openai.APITimeoutError as error:
        raise ReaderError(
            f"{where} did not answer within {endpoint.timeout_s:g} s; raise reader_timeout, or see "
            "if the server is busy"
        ) from error
    except openai.APIStatusError as error:
        raise _status(error, endpoint) from error
    except openai.APIConnectionError as error:
        if row is not None:
            raise _broken(error, endpoint, row) from error
        raise ReaderError(
            f"there is no answer from {where} ({_cause(error)}): start the server, or correct the "
            "address"
        ) from error
    except openai.APIError as error:
        raise _broken(error, endpoint, row) from error
    except Exception as error:
        # what is no JSON, and what older versions of the package let through of httpx
        if not isinstance(error, json.JSONDecodeError) and "httpx" not in type(error).__module__:
            raise
        raise _broken(error, endpoint, row) from error


def _broken(error: Any, endpoint: Endpoint, row: Row | None) -> ReaderError | WindowError:
    """Return the error of an answer that did not come to its end."""
    text = _said(error, endpoint) if getattr(error, "body", None) else _cause(error)
    if TOO_LONG.search(text):
        return _too_long(text, endpoint)
    done = f" after {len(row.text)} characters" if row is not None and row.text else ""
    return ReaderError(
        f"the answer from {endpoint.url} broke off{done}: {text[:SHOWN]}. Ask again; if it happens "
        "again, see if the address is that of an OpenAI-compatible API (it often ends in /v1)"
    )


def _status(error: Any, endpoint: Endpoint) -> ReaderError | WindowError:
    """Return the error of an HTTP status."""
    code, text, where = error.status_code, _said(error, endpoint), endpoint.url
    model = f"the model {endpoint.model!r}" if endpoint.model else "a model"
    if code in (401, 403):
        return ReaderError(
            f"{where} refuses the key ({code}: {text}); set SHAREDLLM_READER_KEY (or, for https "
            "and this machine, OPENAI_API_KEY) in the environment"
        )
    if code in (400, 413, 422) and TOO_LONG.search(text):
        return _too_long(text, endpoint)
    if code in (400, 404, 422, 500, 501) and NO_TOOLS.search(text):
        return ReaderError(
            f"{model} at {where} takes no tools ({text}); name one that does as reader_model, or "
            "ask without tools"
        )
    if code == 404:
        return ReaderError(
            f"{where} does not know {model} or has no chat completions ({text}); see the names "
            f"under {where.rstrip('/')}/models, and that the address is that of the API (it often "
            "ends in /v1)"
        )
    if code == 429:
        return ReaderError(
            f"{where} allows no more requests for now ({text}), also when asked again; wait, or "
            "raise the limit there"
        )
    if code >= 500:
        return ReaderError(
            f"{where} failed ({code}: {text}), also when asked again; see the server's log"
        )
    return ReaderError(f"{where} refuses the request ({code}: {text})")


def _too_long(text: str, endpoint: Endpoint) -> WindowError:
    return WindowError(
        f"the prompt is longer than the model at {endpoint.url} takes ({text[:SHOWN]}); lower "
        "budget or max_new_tokens, leave out the oldest messages, or give the server a larger "
        "context. reader_window tells us how much it takes"
    )


def _said(error: Any, endpoint: Endpoint) -> str:
    """Return the beginning of a server's own message, without the key that some repeat."""
    key = endpoint.key()
    text = _message(error)
    return (text.replace(key, "***") if key else text)[:SHOWN]


def _message(error: Any) -> str:
    """Return a server's own message, in one line."""
    body = getattr(error, "body", None)
    inner = body.get("error", body) if isinstance(body, Mapping) else body
    found = inner.get("message") or inner.get("detail") if isinstance(inner, Mapping) else inner
    return " ".join(str(found or error.message).split())


def _cause(error: BaseException) -> str:
    """Return the innermost reason of an error, or its name."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:SHOWN] or type(error).__name__
