"""ChatSharedLLM: which documents messages may name."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from sharedllm import SharedLLM, TreeMemory
from sharedllm_integrations.errors import DocumentReferenceError
from sharedllm_integrations.langchain import ChatSharedLLM
from tests.integrations.prompts import reference

CALLED = AIMessage("", tool_calls=[{"name": "search", "args": {}, "id": "1"}])
ASK = "When does the ferry leave?"


def happened(message: AIMessage) -> list[tuple[str, str]]:
    found = message.response_metadata["sharedllm"]["documents"]
    return [(one["found_as"], one["outcome"]) for one in found]


def test_a_user_names_a_document_of_the_requests_memory(llm: SharedLLM, memory: TreeMemory) -> None:
    prompt = f"{reference(memory, 'story')}\n{ASK}"
    own: dict[str, Any] = {"llm": llm, "memory": memory, "max_tokens": 2}
    assert happened(ChatSharedLLM(**own).invoke(prompt)) == [("reference", "reused")]
    hidden = ChatSharedLLM(**own, filter={"year": 1902})
    assert happened(hidden.invoke(prompt, filter={"year": 1871})) == [("reference", "reused")]
    for other in (
        hidden,
        ChatSharedLLM(llm=llm, max_tokens=2),
        ChatSharedLLM(**own, tenant="other"),
    ):
        with pytest.raises(DocumentReferenceError, match="for its tenant and filter"):
            other.invoke(prompt)


def test_a_tool_names_documents(llm: SharedLLM, memory: TreeMemory) -> None:
    result = ToolMessage(f"The ferry: ...\n{reference(memory, 'ferry')}", tool_call_id="1")
    history = [HumanMessage(ASK), CALLED, result]
    chat = ChatSharedLLM(llm=llm, memory=memory, max_tokens=2)
    assert happened(chat.invoke(history)) == [("reference", "reused")]
    with pytest.raises(DocumentReferenceError, match="without its text"):
        ChatSharedLLM(llm=llm, max_tokens=2).invoke(history)


@pytest.mark.parametrize("artifact", [3, "text", {"documents": 3}, [1, None], {}])
def test_artifacts_of_tools_are_not_read(llm: SharedLLM, artifact: Any) -> None:
    result = ToolMessage("noon", tool_call_id="1", artifact=artifact)
    chat = ChatSharedLLM(llm=llm, max_tokens=2)
    assert isinstance(chat.invoke([HumanMessage("When?"), CALLED, result]), AIMessage)
