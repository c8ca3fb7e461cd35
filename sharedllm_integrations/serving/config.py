"""The settings of a server, checked when it is made."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from sharedllm.arguments import path_problem, shown
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.settings import AnswerFields

MIB = 1 << 20
MODEL = ("model", "adapter", "device", "dtype", "quantize")
READER = ("reader", "reader_model", "reader_window", "reader_timeout")


class ServerConfig(BaseModel):
    """The settings of a server.

    Attributes
    ----------
    memory : the folder of the memory that is served; with `keys`, the folder of the tenants, each
        of which has its memory in a folder of its name
    keys : JSON file of bearer keys, as ``sharedllm serve-key`` writes it; None serves one tenant
        without keys, on a loopback address only
    host, port : the address
    model, adapter, device, dtype, quantize : as ``SharedLLM.from_pretrained`` takes them
    reader, reader_model, reader_window, reader_timeout : a model elsewhere that answers
    at_once : answers that are decoded in one batch, at most; None takes 16 on a GPU and 4 on a CPU
    max_tokens : the longest answer that a request may ask for, in tokens
    max_body : bytes of a request, uploads apart
    max_upload : bytes of an uploaded file
    max_waiting : requests that wait for the model; more are refused with 429
    timeout : seconds that an answer may take, the time in line included
    otel : send a span of each request where OpenTelemetry's environment variables say
    ingests : read uploads into memories, and finish deletions that a crash cut off; of several
        servers of one folder one does
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    memory: Path
    keys: Path | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    model: str | None = None
    adapter: str | None = "default"
    device: str | None = None
    dtype: str | None = None
    quantize: str | None = None
    reader: str | None = None
    reader_model: str | None = None
    reader_window: PositiveInt | None = None
    reader_timeout: Annotated[float, Field(ge=0)] | None = None
    at_once: Annotated[int, Field(ge=1, le=64)] | None = None
    max_tokens: PositiveInt = 4096
    max_body: PositiveInt = 64 * MIB
    max_upload: PositiveInt = 128 * MIB
    max_waiting: Annotated[int, Field(ge=0)] = 32
    timeout: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    otel: bool = False
    ingests: bool = True

    @classmethod
    def of(cls, **given: Any) -> Self:
        """The settings that `given` names; the others have defaults.

        Raises
        ------
        SetupError
            If a value is not allowed, or an address that others reach would be served without keys.
        """
        for name in ("memory", "keys"):
            value = given.get(name)
            problem = "" if value is None else path_problem(value)
            if value == "":
                problem = "name a path"
            if problem:
                raise SetupError(f"{name} is {shown(given[name])}; {problem}")
        try:
            made = cls(**given)
        except ValidationError as error:
            wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            raise SetupError(f"the server's settings cannot be used: {'; '.join(wrong)}") from error
        if made.keys is None and not is_loopback(made.host):
            raise SetupError(
                f"host is {made.host!r}, and there are no keys: whoever reaches that address could "
                "read and delete every document. Give keys (sharedllm serve-key makes one), or "
                "serve 127.0.0.1"
            )
        return made

    @property
    def answering(self) -> AnswerFields:
        """The fields of an adapter that name the same model and reader."""
        given = {name: getattr(self, name) for name in (*MODEL, *READER)}
        return AnswerFields(**given)


def is_loopback(host: str) -> bool:
    """True for an address that only this machine reaches."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
