"""An OpenAI-compatible server over memories: ``sharedllm serve --memory DIR`` (extra "serve").

It stands on the engine of the adapters. What the extra brings is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sharedllm_integrations.errors import MissingFrameworkError

if TYPE_CHECKING:
    from sharedllm_integrations.serving.app import create_app, load_model
    from sharedllm_integrations.serving.config import ServerConfig
    from sharedllm_integrations.serving.keys import add_key
    from sharedllm_integrations.serving.ray_serve import RayScale, deploy, run_until_signal
    from sharedllm_integrations.serving.running import bound_socket, run

_HOMES = {
    "ServerConfig": "config",
    "bound_socket": "running",
    "create_app": "app",
    "load_model": "app",
    "run": "running",
    "add_key": "keys",
    "RayScale": "ray_serve",
    "deploy": "ray_serve",
    "run_until_signal": "ray_serve",
}
_BROUGHT = {
    **dict.fromkeys(("pydantic", "fastapi", "starlette", "uvicorn", "prometheus_client"), "serve"),
    "ray": "ray",
}
__all__ = [
    "ServerConfig",
    "bound_socket",
    "create_app",
    "load_model",
    "run",
    "add_key",
    "RayScale",
    "deploy",
    "run_until_signal",
]


def __getattr__(name: str) -> Any:
    """Load a name when it is first used.

    Raises
    ------
    MissingFrameworkError
        If a package of the extra "serve" or "ray" is not installed.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        home = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in _BROUGHT:
            raise MissingFrameworkError(missing, _BROUGHT[missing]) from error
        raise
    return getattr(home, name)
