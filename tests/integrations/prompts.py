"""Prompts of the tests: texts between the marks of references."""

from __future__ import annotations

from sharedllm import TreeMemory
from sharedllm_integrations.references import Reference, Scope, text_hash

NOWHERE = Reference.of_id("0" * 32)  # names nothing, and anybody can write it


def gone() -> Reference:
    """A reference that this process made, to a document that is nowhere."""
    return Scope("", "elsewhere").reference("gone", "The text that it had.")


def enclosed(text: str, tenant: str = "") -> str:
    """A text of no memory between marks that name it."""
    return Scope(tenant, "").enclosed("", text)


def reference(memory: TreeMemory, id: str, tenant: str = "") -> Reference:
    """The reference to a document of a memory."""
    return Scope.of(memory, tenant).reference(id, memory.get(id).text)


def retrieved(memory: TreeMemory, id: str, tenant: str = "") -> str:
    """A document of a memory as a retriever gives it."""
    return Scope.of(memory, tenant).enclosed(id, memory.get(id).text)


def hashed(text: str) -> str:
    """The name of a text."""
    return text_hash(text, "")
