"""The address of a reader elsewhere, and the key that goes there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from sharedllm.arguments import shown
from sharedllm.config import InjectionConfig, require_int, require_number
from sharedllm.errors import ConfigError
from sharedllm.readers.reader import require_unused

KEYS = ("SHAREDLLM_READER_KEY", "OPENAI_API_KEY")  # the environment's names of the key
LOCAL = ("localhost", "127.0.0.1", "::1")
TIMEOUT_S = 300.0
WHY = "the model runs elsewhere, and its KV and logits stay there"


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """The address of an OpenAI-compatible API, and how it is used.

    Parameters
    ----------
    url : of the API, as "http://localhost:11434/v1"
    model : its name there; None takes the only one that there is
    window : tokens that prompt and answer must fit; None is 4,096. A server may allow more: say so,
        or evidence and history are held to this
    timeout_s : seconds without a sign of life after which it counts as down

    Raises
    ------
    ConfigError
    """

    url: str
    model: str | None = None
    window: int | None = None
    timeout_s: float = TIMEOUT_S

    def __post_init__(self) -> None:
        url = self.url.rstrip("/").removesuffix("/chat/completions")
        object.__setattr__(self, "url", url)
        try:
            parts = urlsplit(self.url)
            host, at = parts.hostname, parts.username or parts.password
            _ = parts.port
        except ValueError:
            host, at = None, None
        if not host or parts.scheme not in ("http", "https"):
            raise ConfigError(
                f"reader is {shown(self.url)}; give the address of an OpenAI-compatible API, such "
                "as http://localhost:11434/v1"
            )
        if at or parts.query:
            raise ConfigError(
                "reader holds a name, a password or a query; give the address alone, and a key in "
                f"the environment ({' or '.join(KEYS)})"
            )
        if self.model is not None and not self.model.strip():
            raise ConfigError("reader_model is empty; name a model of the endpoint")
        if self.window is not None:
            require_int("reader_window", self.window, least=64)
        require_number("reader_timeout", self.timeout_s, least=0.1)

    @classmethod
    def of(
        cls,
        reader: str | Endpoint | None,
        model: str | None = None,
        window: int | None = None,
        timeout_s: float | None = None,
    ) -> Endpoint | None:
        """Return what options of that name describe; None without a `reader`.

        Raises
        ------
        ConfigError
        """
        if reader is None:
            named = {"reader_model": model, "reader_timeout": timeout_s}
            for name, value in named.items():
                if value is not None:
                    raise ConfigError(f"{name} is {shown(value)}, and there is no reader; give one")
            if window is not None:
                require_int("reader_window", window, least=64)
            return None
        if isinstance(reader, Endpoint):
            return reader
        patience = TIMEOUT_S if timeout_s is None else timeout_s
        return cls(url=reader, model=model, window=window, timeout_s=patience)

    def require_unused(self, injection: InjectionConfig | None) -> None:
        """Refuse what does nothing with it.

        Raises
        ------
        UnsupportedModelError
        """
        mode = injection and injection.mode
        require_unused(self.model or self.url, WHY, injection=mode)

    def key(self) -> str:
        """Return the key in the environment; empty if there is none for this address.

        OpenAI's own key goes to an address that is encrypted or on this machine, to no other.
        """
        own, shared = (os.environ.get(name, "").strip() for name in KEYS)
        parts = urlsplit(self.url)
        return own or (shared if parts.scheme == "https" or parts.hostname in LOCAL else "")
