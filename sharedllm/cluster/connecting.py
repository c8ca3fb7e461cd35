"""Connecting to a Ray cluster, by the address that ``--ray`` takes."""

from __future__ import annotations

import importlib
import logging
import os
import socket
from typing import Any

from sharedllm.arguments import shown
from sharedllm.errors import ConfigError, MissingExtraError

LOCAL, AUTO = "local", "auto"
REACH_S = 5.0  # seconds to wait for a cluster


def connected(address: str | None, library: str) -> Any:
    """Connect to Ray, unless this process is connected already, and give the package.

    Ray then says errors alone; whoever wants its other messages calls ``ray.init`` before.

    Parameters
    ----------
    address : host:port of a cluster; "auto" is the one of this machine, None or "local" starts one
        here
    library : the part of Ray that is needed, as in ``ray.data``

    Raises
    ------
    MissingExtraError
        If Ray or that part of it is not installed.
    ConfigError
        If there is no cluster at `address`.
    """
    try:
        ray = importlib.import_module("ray")
        importlib.import_module(f"ray.{library}")
    except ImportError as error:
        raise MissingExtraError("ray", "ray") from error
    if ray.is_initialized():
        return ray
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    named = bool(host) and port.isascii() and port.isdigit()
    here = address in (None, LOCAL)
    try:
        if named:  # Ray itself waits for minutes
            socket.create_connection((host, int(port)), timeout=REACH_S).close()
        elif not here and address != AUTO:
            raise ValueError("this is no address")
        # without an address Ray would join a cluster that runs on this machine
        own: dict[str, Any] = {"address": LOCAL, "include_dashboard": False}
        _quieten(library)
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        ray.init(**quiet, **(own if here else {"address": address}))
    except (OSError, ConnectionError, ValueError, OverflowError, RuntimeError) as error:
        raise ConfigError(
            f"there is no Ray cluster at {shown(address)}: {str(error).splitlines()[0]}; give "
            f"host:port of one (ray start --head), {AUTO!r}, or {LOCAL!r} to start one here"
        ) from error
    return ray


def _quieten(library: str) -> None:
    # it would tell of errors that Ray recovers from
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for name in ("ray", f"ray.{library}"):
        logging.getLogger(name).setLevel(logging.ERROR)
