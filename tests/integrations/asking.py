"""Requests of the tests, asked of an engine over the tiny model."""

from __future__ import annotations

from typing import Any

from sharedllm import SharedLLM
from sharedllm_integrations.engine import Engine, Run
from sharedllm_integrations.requests import GivenText, Message, Request, Role
from sharedllm_integrations.settings import AnswerFields

ASK = "\n\nWhen does the ferry leave?"
OPTIONS = {"max_new_tokens": 4, "budget": 128}


def said(*parts: str | GivenText, role: Role = "user") -> Message:
    return Message(role=role, parts=parts)


def ask(
    llm: SharedLLM, *messages: Message | str, timeout: float | None = None, **given: Any
) -> Run:
    engine = Engine(AnswerFields(llm=llm, search=OPTIONS, **given))
    own = [said(one) if isinstance(one, str) else one for one in messages]
    return engine.complete(Request(messages=own, timeout=timeout))


def outcomes(run: Run) -> list[tuple[str, str]]:
    return [(document.found_as, document.outcome) for document in run.report.documents]
