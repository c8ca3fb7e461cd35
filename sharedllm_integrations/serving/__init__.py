"""An OpenAI-compatible server over memories: ``sharedllm serve --memory DIR`` (extra "serve").

It stands on the engine of the adapters. FastAPI is imported when :func:`create_app` is called for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sharedllm_integrations.serving.config import ServerConfig
from sharedllm_integrations.serving.keys import add_key

if TYPE_CHECKING:
    from sharedllm_integrations.serving.app import bound_socket, create_app, load_model, run

LATER = ("bound_socket", "create_app", "load_model", "run")
__all__ = ["ServerConfig", "bound_socket", "create_app", "load_model", "run", "add_key"]


def __getattr__(name: str) -> Any:
    """Load what needs FastAPI when it is first used.

    Raises
    ------
    MissingFrameworkError
        If it is not installed.
    """
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    from sharedllm_integrations.errors import MissingFrameworkError

    try:
        app = importlib.import_module(f"{__name__}.app")
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.split(".")[0] in ("fastapi", "starlette", "uvicorn", "prometheus_client"):
            raise MissingFrameworkError(missing, "serve") from error
        raise
    return getattr(app, name)
