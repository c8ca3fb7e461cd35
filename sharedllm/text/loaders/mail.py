"""EML -> text: a message's head, its body, and the names of what is attached.

The body is the plain text where there is one, else the HTML as a browser shows it.
"""

from __future__ import annotations

import email
import re
from collections.abc import Iterator
from email.header import decode_header
from email.message import Message

from sharedllm.errors import DocumentError
from sharedllm.text.loaders.encodings import decode
from sharedllm.text.loaders.flow import Measured
from sharedllm.text.loaders.html import visible
from sharedllm.text.loaders.source import Contents, Given

HEAD = ("From", "To", "Cc", "Date", "Subject")
LONGEST_HEAD = 10_000  # characters; a list of thousands of addresses is cut
DEEPEST = 30  # messages within messages
SOFT_BREAK = re.compile(r" \n(?=\S)")


def read_eml(given: Given) -> Contents:
    """Return text and subject of a message.

    Raises
    ------
    DocumentError
    """
    try:
        message = email.message_from_bytes(given.data)
        measured, out = Measured(given.source), list[str]()
        for part in _parts(message, given, 0):
            measured.add(len(part) + 2)
            out.append(part)
        return Contents("\n\n".join(out), _header(message, "Subject"))
    except DocumentError:
        raise
    except (RecursionError, LookupError, ValueError, TypeError, AttributeError) as error:
        # the standard library's parser stumbles over some broken messages
        raise DocumentError(
            f"{given.source} cannot be read as a message ({error}); it may be damaged: save it "
            "again, or as text"
        ) from error


def _parts(message: Message, given: Given, depth: int) -> Iterator[str]:
    """Yield the texts of a message, the forwarded ones after its own."""
    if depth > DEEPEST:
        raise DocumentError(f"{given.source} has more than {DEEPEST} messages in one another")
    head = [f"{name}: {text}" for name in HEAD if (text := _header(message, name))]
    if head:
        yield "\n".join(head)
    inner: list[Message] = []
    attached: list[str] = []
    for part in _bodies(message, attached, inner):
        yield _body(part, given)
    if attached:
        yield "Attached: " + ", ".join(attached)
    for one in inner:
        yield from _parts(one, given, depth + 1)


def _bodies(message: Message, attached: list[str], inner: list[Message]) -> Iterator[Message]:
    """Yield the parts that are shown; attachments and forwarded messages are noted."""
    waiting = [message]
    while waiting:
        part = waiting.pop()
        kind, held = part.get_content_type(), part.get_payload()
        if kind == "message/rfc822" and isinstance(held, list):
            inner += [one for one in held if isinstance(one, Message)]
        elif isinstance(held, list):
            children = [one for one in held if isinstance(one, Message)]
            waiting += _best(children) if kind == "multipart/alternative" else children[::-1]
        elif part.get_content_disposition() == "attachment" or part.get_filename():
            attached.append(_plain(part.get_filename() or kind))
        elif kind in ("text/plain", "text/html") or part.get_content_maintype() == "text":
            yield part


def _best(parts: list[Message]) -> list[Message]:
    """The one of several versions that is easiest to read."""
    plain = [part for part in parts if part.get_content_type() == "text/plain"]
    return (plain or parts)[-1:]


def _body(part: Message, given: Given) -> str:
    held = part.get_payload(decode=True)
    data = held if isinstance(held, bytes) else b""
    charset = part.get_content_charset()
    own = Given(data=data, source=given.source, encoding=given.encoding)
    text = decode(own, declared=charset) if data else ""
    if part.get_content_type() == "text/html":
        return visible(text, given.source).text
    text = text.replace("\r\n", "\n")
    if part.get_param("format") == "flowed":
        text = SOFT_BREAK.sub(" ", text)
    return text.strip()


def _header(message: Message, name: str) -> str:
    given = message.get(name)
    return _plain(str(given)) if given is not None else ""


def _plain(text: str) -> str:
    """A header's words, decoded."""
    out = []
    for piece, charset in decode_header(text[:LONGEST_HEAD]):
        if isinstance(piece, str):
            out.append(piece)
            continue
        try:
            out.append(piece.decode(charset or "utf-8", "replace"))
        except (LookupError, ValueError):
            out.append(piece.decode("latin-1"))
    words = " ".join("".join(out).split())
    return words.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
