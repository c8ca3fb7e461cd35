"""What every adapter calls things, and what it tells about an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sharedllm_integrations.answers import keep
from sharedllm_integrations.engine import Engine, Run

if TYPE_CHECKING:
    from sharedllm import Citation

PROVIDER = "sharedllm"
DEFAULT_MODEL = "SmolLM2-135M-Instruct"
MAX_TOKENS = 256
GENERATION = {  # the frameworks' names -> the core's
    "temperature": "temperature",
    "max_tokens": "max_new_tokens",
    "top_p": "top_p",
    "top_k": "top_k",
    "repetition_penalty": "repetition_penalty",
    "seed": "seed",
}


def plain(citations: Sequence[Citation]) -> list[dict[str, Any]]:
    """Citations as plain values."""
    return [asdict(citation) for citation in citations]


def details(run: Run) -> dict[str, Any]:
    """What happened to the documents of a request that has been answered, as plain values.

    ``documents``, ``refused`` and ``question_repeated`` are those of
    :class:`~sharedllm_integrations.report.Report`, ``citations`` the selected evidence, best first,
    ``answer_id`` what :func:`sharedllm_integrations.answers.kept` finds the core's answer by.
    """
    cited = {"citations": plain(run.answer.citations), "answer_id": keep(run.answer)}
    return {**run.report.to_dict(), **cited}


def model_name(engine: Engine) -> str:
    """What the model is called, which is loaded for it."""
    if engine.settings.model is not None:
        return engine.settings.model
    named = engine.llm.encoder.loaded_from
    if named is not None:
        return named[0] or DEFAULT_MODEL
    config = engine.llm.model.config
    return str(getattr(config, "_name_or_path", "") or config.model_type)
