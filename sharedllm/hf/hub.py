"""The hub and its local cache: is a model there, and if not, why not, in one line."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, is_offline_mode, scan_cache_dir
from huggingface_hub.errors import (
    CacheNotFound,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # which one it uses

from sharedllm.errors import ModelNotFoundError
from sharedllm.hf.models import BY_HUB, is_slip, nearest

TIMEOUT_S = 10.0
ASKED_AGAIN_S = 60.0  # seconds after which a hub that did not answer is asked again
OFFLINE = "docs/howto/offline.md has the way without a network"
INDEX = "model.safetensors.index.json"
_unanswered = {"since": float("-inf")}


def look_up(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Ask the hub once for the model `name`; return the options to load it with.

    Without an answer they restrict loading to the local cache: every file would wait half a minute
    for the network otherwise.

    Parameters
    ----------
    options : ``revision``, ``token``, ``local_files_only``, ... as transformers takes them

    Raises
    ------
    ModelNotFoundError
        If the hub does not have it, or not for this user.
    """
    if is_slip(name):
        raise unknown(name)
    local = {
        **options,
        "local_files_only": True,
        # transformers (5.23) looks for an adapter beside the model, on the hub unless this says no
        "adapter_kwargs": {**(options.get("adapter_kwargs") or {}), "local_files_only": True},
    }
    quiet = time.monotonic() - _unanswered["since"] < ASKED_AGAIN_S
    if options.get("local_files_only") or is_offline_mode() or quiet:
        return local
    try:
        HfApi(token=options.get("token")).model_info(
            name, revision=options.get("revision"), timeout=TIMEOUT_S
        )
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        if is_cached(name, options):  # it was there once, or for another user
            return local
        raise ModelNotFoundError(explained(name, error)) from error
    except HFValidationError as error:
        raise unknown(name) from error
    except (OfflineModeIsEnabled, HfHubHTTPError, httpx.HTTPError):
        _unanswered["since"] = time.monotonic()
        return local
    return options


def is_cached(name: str, options: dict[str, Any]) -> bool:
    """Return True if the local cache has files of the model `name`."""
    folder = Path(options.get("cache_dir") or constants.HF_HUB_CACHE)
    return (folder / f"models--{name.replace('/', '--')}" / "snapshots").is_dir()


def unknown(name: str) -> ModelNotFoundError:
    """Return the error for a name that no model has, with those nearest to it."""
    near = nearest(name, cached())
    hint = f"nearest: {', '.join(near)}; " if near else ""
    return ModelNotFoundError(
        f"no model is called {name!r}, nor is there a folder of that name here; {hint}give a short "
        "name (sharedllm models lists them), a hub name, a folder or a .gguf file"
    )


def explained(name: str, error: BaseException, *, local: bool = False) -> str:
    """Say in one line why the model `name` could not be loaded.

    Parameters
    ----------
    local : loading was restricted to the local cache
    """
    kinds = [type(one) for one in _chain(error)]

    def one_of(*wanted: type[BaseException]) -> bool:
        return any(issubclass(kind, wanted) for kind in kinds)

    hub = f"https://huggingface.co/{name}"
    if one_of(GatedRepoError):
        return (
            f"{name!r} is gated: accept its terms at {hub}, then log in with `hf auth login`, or "
            "give a token in HF_TOKEN"
        )
    if one_of(RevisionNotFoundError):
        return f"{name!r} has no such revision; {hub}/refs lists them"
    if one_of(RepositoryNotFoundError, HFValidationError):
        return str(unknown(name))
    if one_of(LocalEntryNotFoundError, OfflineModeIsEnabled, httpx.HTTPError):
        return _out_of_reach(name)
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if local and "does not appear to have a file named" in first:  # transformers, without a cause
        return _out_of_reach(name)
    return (
        f"cannot load a model from {name!r}: {first} (give a short or hub name, a folder with "
        "safetensors, or a .gguf file)"
    )


def _out_of_reach(name: str) -> str:
    why = (
        "HF_HUB_OFFLINE restricts this to the local cache"
        if is_offline_mode()
        else "huggingface.co cannot be reached"
    )
    known = BY_HUB.get(name)
    meant = "" if known or is_cached(name, {}) else ", ".join(nearest(name, cached()))
    return (
        f"{why}, and {constants.HF_HUB_CACHE} does not hold all of {name!r}"
        + ("" if known else ", nor is it a folder here")
        + (f". Was one of these meant: {meant}? Else " if meant else ": ")
        + f"fetch it with `hf download {name}` where there is a network, and copy it ({OFFLINE})"
    )


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return an error and those that it came from."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def cached() -> dict[str, int]:
    """Return the models that the local cache holds whole, by hub name, and their bytes."""
    try:
        scan = scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        return {}
    found = {}
    for repo in scan.repos:
        if repo.repo_type != "model":
            continue
        whole = [r.size_on_disk for r in repo.revisions if _is_whole(r.snapshot_path)]
        if whole:
            found[repo.repo_id] = max(whole)
    return found


def _is_whole(snapshot: os.PathLike[str]) -> bool:
    """Return True if a snapshot has a configuration and all of its weights as safetensors."""
    folder = Path(snapshot)
    if not (folder / "config.json").is_file():
        return False
    index = folder / INDEX
    if not index.is_file():
        return (folder / "model.safetensors").is_file()
    shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return all((folder / shard).is_file() for shard in shards)
