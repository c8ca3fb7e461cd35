"""Handles: names of texts that only their tenant can make, and that text around them cannot forge.

A handle's id is a keyed hash of tenant and text. The key lies outside of every memory, so that no
copy or export of a memory lets anyone make handles.

Spelled ``[[sllm:v1:ID]]``: ASCII without braces, quotes, backslashes, blanks and line breaks, so
that templates, JSON and markup leave it alone.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
import re
import secrets
import tempfile
from pathlib import Path

from sharedllm_integrations.errors import SetupError

KEY_VARIABLE = "SHAREDLLM_HANDLE_KEY"
KEY_BYTES = 32
MARK = re.compile(r"\[\[(?P<close>/)?sllm:(?(close)|v1:)(?P<id>[0-9a-f]{32})\]\]")
_LIKE_A_MARK = re.compile(r"\[\[(?=/?sllm:)", re.IGNORECASE)


def handle_id(text: str, tenant: str) -> str:
    """The id of `text` for `tenant`: 32 hex digits.

    Raises
    ------
    SetupError
        If the key cannot be read or made.
    """
    digest = hmac.new(_key(), digestmod=hashlib.sha256)
    for part in (tenant, text):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:32]


def opening(id: str) -> str:
    """The mark that opens a fence; without a fence's end it is a bare handle."""
    return f"[[sllm:v1:{id}]]"


def closing(id: str) -> str:
    """The mark that closes a fence."""
    return f"[[/sllm:{id}]]"


def fenced(text: str, tenant: str = "") -> str:
    """`text` between the marks that name it, for a prompt that will be read by an adapter.

    Marks inside of `text` are made harmless first. Any other model sees the text.
    """
    body = neutral(text)
    id = handle_id(body, tenant)
    return f"{opening(id)}{body}{closing(id)}"


def neutral(text: str) -> str:
    """`text` with nothing that reads as a mark; as long as before, so that offsets stay right."""
    return _LIKE_A_MARK.sub("[(", text)


def _key() -> bytes:
    """The key of this user's handles: $SHAREDLLM_HANDLE_KEY, else a file made when first needed."""
    given = os.environ.get(KEY_VARIABLE)
    return _given_key(given) if given else _kept_key(_key_file())


@functools.cache
def _given_key(given: str) -> bytes:
    try:
        key = bytes.fromhex(given)
    except ValueError:
        key = b""
    if len(key) < KEY_BYTES:
        raise SetupError(
            f"{KEY_VARIABLE} must be at least {2 * KEY_BYTES} hex digits; make one with: "
            f"python -c 'import secrets; print(secrets.token_hex({KEY_BYTES}))'"
        )
    return key


def _key_file() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "sharedllm" / "handle.key"


@functools.cache
def _kept_key(file: Path) -> bytes:
    try:
        if not file.exists():
            _make_key(file)
        key = bytes.fromhex(file.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise SetupError(
            f"the key of handles in {str(file)!r} cannot be read or made ({error}); make its "
            f"folder writable, or give a key of {2 * KEY_BYTES} hex digits in {KEY_VARIABLE}"
        ) from error
    if len(key) < KEY_BYTES:
        raise SetupError(f"the key of handles in {str(file)!r} is too short; remove the file")
    return key


def _make_key(file: Path) -> None:
    """Write a new key whole, unless another process is faster."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent)  # for this user's eyes only
    try:
        with os.fdopen(handle, "w", encoding="ascii") as out:
            out.write(secrets.token_hex(KEY_BYTES))
        try:
            os.link(name, file)
        except FileExistsError:
            return
    finally:
        Path(name).unlink()
