"""YaRN and StreamingLLM beside the baselines of ``sharedllm eval``."""

from __future__ import annotations

from benchmarks.quality.streaming import Streaming
from benchmarks.quality.yarn import Yarn
from sharedllm import SharedLLM
from sharedllm.evaluation.baselines import BASELINES, Choice
from sharedllm.evaluation.methods import Method


def yarn(llm: SharedLLM, choice: Choice) -> list[Method]:
    return [Yarn(llm, choice.batch)]


def streaming(llm: SharedLLM, choice: Choice) -> list[Method]:
    return [Streaming(llm, choice.batch)]


def register() -> None:
    """Let ``--baselines`` name them, in every command of this process."""
    BASELINES.update(yarn=yarn, streaming=streaming)
