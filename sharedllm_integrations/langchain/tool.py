"""create_tree_memory_tool: a tree memory as a tool of an agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document
from langchain_core.tools import StructuredTool
from pydantic import BaseModel, Field

from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.handles import opening
from sharedllm_integrations.langchain.documents import HANDLE
from sharedllm_integrations.langchain.retriever import TreeMemoryRetriever
from sharedllm_integrations.names import name_of

Content = Literal["documents", "handles", "passages"]
PREVIEW = 300  # characters
NOTHING = "Nothing was found."


class _Query(BaseModel):
    query: str = Field(description="what to look for, as a question or in key words")


def create_tree_memory_tool(
    memory: Any,
    *,
    name: str = "search_documents",
    description: str = "Searches the documents, and returns those that answer the query.",
    k: int = 3,
    content: Content = "documents",
    filter: Mapping[str, Any] | None = None,
    tenant: str = "",
) -> StructuredTool:
    """A tool that searches a tree memory.

    Parameters
    ----------
    memory : TreeMemory, or the path of one
    name, description : for the model that calls it
    k : documents or passages to return
    content : {"documents", "handles", "passages"}
        What the model reads: whole documents between their marks; or a preview of each with its
        handle, which ``ChatSharedLLM`` reads as the whole document (the message's artifact grants
        it) and which keeps histories short; or the best passages, for any other model.
    filter : metadata filter, as ``TreeMemory.search`` takes it
    tenant : of the marks

    Raises
    ------
    SetupError
        If `content` is none of these.
    """
    if content not in ("documents", "handles", "passages"):
        raise SetupError(f"content is {content!r}; allowed: 'documents', 'handles' and 'passages'")
    retriever = TreeMemoryRetriever(
        memory=memory,
        k=k,
        filter=filter,
        tenant=tenant,
        returns="passages" if content == "passages" else "documents",
        marks=content == "documents",
    )

    def search(query: str, callbacks: Callbacks = None) -> tuple[str, dict[str, Any]]:
        return _shown(retriever.invoke(query, config={"callbacks": callbacks}), content)

    async def asearch(query: str, callbacks: Callbacks = None) -> tuple[str, dict[str, Any]]:
        found = await retriever.ainvoke(query, config={"callbacks": callbacks})
        return _shown(found, content)

    return StructuredTool.from_function(
        func=search,
        coroutine=asearch,
        name=name,
        description=description,
        args_schema=_Query,
        response_format="content_and_artifact",
    )


def _shown(found: list[Document], content: Content) -> tuple[str, dict[str, Any]]:
    """What the model reads, and what stands beside it: plain values, which a history can keep."""
    artifact = {
        "handles": [one.metadata[HANDLE] for one in found if HANDLE in one.metadata],
        "documents": [{"id": one.id, **one.metadata} for one in found],
    }
    texts = [_preview(one) if content == "handles" else one.page_content for one in found]
    return "\n\n".join(texts) or NOTHING, artifact


def _preview(document: Document) -> str:
    name = name_of(document.metadata, document.page_content)
    begins = " ".join(document.page_content[:PREVIEW].split())
    return f"{name}: {begins}...\n{opening(document.metadata[HANDLE])}"
