"""Bearer keys: which tenant a request speaks for. Only hashes of keys are kept."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import tempfile
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from sharedllm.arguments import path_problem, shown
from sharedllm_integrations.errors import SetupError

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")
PREFIX = "sk-sllm-"
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


class TenantKeys(BaseModel):
    """The keys of one tenant.

    Attributes
    ----------
    hashes : SHA-256 of each key, in hex; keys are random, so that no slower hash is needed
    operator : whether its keys may read /metrics, which counts all tenants together
    """

    model_config = ConfigDict(extra="forbid")

    hashes: list[Hash] = Field(default_factory=list)
    operator: bool = False


class KeyFile(BaseModel):
    """All tenants and their keys."""

    model_config = ConfigDict(extra="forbid")

    tenants: dict[Name, TenantKeys] = Field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> KeyFile:
        """The keys in a file.

        Raises
        ------
        SetupError
            If it cannot be read, or is of another form.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise SetupError(
                f"the keys in {str(path)!r} cannot be read: {error.strerror or error}; make a key "
                "with: sharedllm serve-key NAME --keys FILE"
            ) from error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise SetupError(
                f"{str(path)!r} is no file of keys: {place}: {first['msg']}; make a key with: "
                "sharedllm serve-key NAME --keys FILE"
            ) from error

    def tenant_of(self, key: str) -> str | None:
        """The tenant whose key this is, or None; a wrong key takes as long as a right one."""
        given, found = key_hash(key), None
        for name, held in self.tenants.items():
            for one in held.hashes:
                if hmac.compare_digest(one, given):
                    found = name
        return found


def key_hash(key: str) -> str:
    """The hash under which a key is kept."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def add_key(path: Path, tenant: str, *, operator: bool = False) -> str:
    """Make a key for `tenant`, keep its hash in the file, and give the key, which is not kept.

    Raises
    ------
    SetupError
        If no tenant can have that name, or the file cannot be read or written.
    """
    if not NAME.match(tenant):
        raise SetupError(
            f"the tenant is {tenant!r}; allowed are 1 to 64 of a-z, 0-9, _ and -, the first a "
            "letter or digit"
        )
    problem = path_problem(path)
    if problem:
        raise SetupError(f"keys is {shown(os.fspath(path))}; {problem}")
    held = KeyFile.read(path) if path.exists() else KeyFile()
    key = PREFIX + secrets.token_urlsafe(32)
    own = held.tenants.setdefault(tenant, TenantKeys())
    own.hashes.append(key_hash(key))
    own.operator = own.operator or operator
    try:
        _write(path, json.dumps(held.model_dump(), indent=2) + "\n")
    except OSError as error:
        raise SetupError(
            f"the keys in {str(path)!r} cannot be written: {error.strerror or error}; make its "
            "folder writable"
        ) from error
    return key


def _write(path: Path, text: str) -> None:
    """Replace a file whole, readable by its user only."""
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
