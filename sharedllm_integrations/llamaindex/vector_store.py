"""TreeMemoryVectorStore: a tree memory in the place of a LlamaIndex vector store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_index.core.schema import BaseNode
from llama_index.core.storage.storage_context import StorageContext
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)

from sharedllm.arguments import checked
from sharedllm_integrations.engine import memory_to_fill
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.llamaindex.nodes import PART_OF, to_memory, where, whole
from sharedllm_integrations.memories import find_hits, open_given, put, save
from sharedllm_integrations.references import Scope
from sharedllm_integrations.settings import ModelFields
from sharedllm_integrations.worker import in_thread

if TYPE_CHECKING:
    from sharedllm import SharedLLM, TreeMemory

FOLDER = "memory"  # within the folder of a StorageContext
FIELD = "tree_memory"  # in the file of a vector store: where its memory lies


class TreeMemoryVectorStore(ModelFields, BasePydanticVectorStore):
    """Keeps LlamaIndex nodes as documents of a memory, and finds them without embeddings.

    As the ``vector_store`` of an :class:`IngestionPipeline` it deletes what the strategies
    "upserts" and "upserts_and_delete" say is gone; :class:`TreeMemoryTransform` over the same
    memory reads what is new. As that of a ``VectorStoreIndex`` it needs any embedding model, such
    as LlamaIndex's ``MockEmbedding(1)``, whose embeddings it does not use.

    Parameters
    ----------
    memory : TreeMemory, or the path of one (made where there is none)
    model, adapter, device, dtype : what a new memory is made by, as for LlamaIndexSharedLLM
    llm : a SharedLLM that is loaded already, in place of `model`
    tenant : of the references of its nodes

    Raises
    ------
    SetupError
        For a query that a memory cannot answer.
    SharedLLMError
    """

    memory: Any
    stores_text: bool = True
    is_embedding_query: bool = False

    @classmethod
    def class_name(cls) -> str:
        """The name by which LlamaIndex knows it."""
        return "TreeMemoryVectorStore"

    @property
    def client(self) -> TreeMemory:
        """The memory, opened when it is first needed."""
        return memory_to_fill(self)

    # -- keeping -------------------------------------------------------------------------------

    @checked(error=SetupError)
    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Read LlamaIndex nodes, or change those that are there under their ids."""
        memory, ids = self.client, []
        for document in [to_memory(node) for node in nodes if node.get_content().strip()]:
            put(memory, document)
            ids.append(document.id)
        return ids

    @checked(error=SetupError)
    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete a document, and all parts of it; nothing, if it is not there."""
        delete_with_parts(self.client, ref_doc_id)

    @checked(error=SetupError)
    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Delete what has one of these ids and passes the filters.

        Raises
        ------
        SetupError
            Without either.
        """
        if node_ids is None and filters is None:
            raise SetupError("delete_nodes() was given neither node_ids nor filters; give one")
        gone = [one.id for one in self.client.list(_filter(node_ids, filters))]
        if gone:
            self.client.delete(gone)

    def clear(self) -> None:
        """Delete everything."""
        memory = self.client
        if len(memory):
            memory.delete([one.id for one in memory.list()])

    @checked(error=SetupError)
    def get_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Return what has one of these ids and passes the filters."""
        memory = self.client
        scope = Scope.of(memory, self.tenant)
        found = memory.list(_filter(node_ids, filters))
        return [whole(memory.get(one.id), scope, refers=False) for one in found]

    # -- finding -------------------------------------------------------------------------------

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The documents that match the words of a query best.

        Raises
        ------
        SetupError
            If there are no words, or for another mode than "default".
        """
        if query.mode != VectorStoreQueryMode.DEFAULT:
            raise SetupError(
                f"vector_store_query_mode is {query.mode.value!r}; a memory has its own search: "
                "leave it out"
            )
        if query.query_str is None:
            raise SetupError("the query has no query_str; a memory searches for words")
        memory, k = self.client, query.similarity_top_k
        ids = [*(query.node_ids or []), *(query.doc_ids or [])]
        given = _filter(ids or None, query.filters)
        hits = find_hits(memory, query.query_str, k, given, "documents")
        scope = Scope.of(memory, self.tenant)
        return VectorStoreQueryResult(
            nodes=[whole(memory.get(hit.id), scope, refers=False) for hit in hits],
            similarities=[hit.score for hit in hits],
            ids=[hit.id for hit in hits],
        )

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """:meth:`query` without holding up the event loop."""
        return await in_thread(lambda: self.query(query, **kwargs))

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """:meth:`add` without holding up the event loop."""
        return await in_thread(lambda: self.add(nodes, **kwargs))

    # -- StorageContext ------------------------------------------------------------------------

    def persist(self, persist_path: str, fs: Any = None) -> None:
        """Write the memory beside the files of a StorageContext, in a folder of its own.

        Raises
        ------
        SetupError
            For a file system other than this machine's.
        """
        if fs is not None:
            raise SetupError("a memory is a folder of this machine; leave fs out, and copy it")
        file, memory = Path(persist_path), self.client
        own = file.parent.resolve() == memory.path.resolve()
        folder = memory.path if own else file.parent / FOLDER
        save(memory, folder)
        held: dict[str, Any] = {"embedding_dict": {}, "text_id_to_ref_doc_id": {}}
        held["metadata_dict"] = {FIELD: {"folder": str(folder.resolve())}}
        file.write_text(json.dumps(held), encoding="utf-8")


def memory_of(storage_context: StorageContext, llm: SharedLLM | None) -> TreeMemory | None:
    """The memory that a StorageContext holds or was persisted with, or None.

    Parameters
    ----------
    llm : the model that it is opened with

    Raises
    ------
    SetupError
        If it holds another vector store with documents in it, or its memory is not there.
    """
    store = storage_context.vector_store
    if isinstance(store, TreeMemoryVectorStore):
        return store.client
    data = getattr(store, "data", None)
    held = getattr(data, "metadata_dict", {}).get(FIELD)
    if isinstance(held, dict) and isinstance(held.get("folder"), str):
        if not Path(held["folder"]).is_dir():
            raise SetupError(
                f"the memory of this storage was persisted to {held['folder']!r}, where it is not "
                f"any more; write TreeMemoryIndex.load(folder), with the folder {FOLDER!r} beside "
                "the files of the storage"
            )
        return open_given(held["folder"], llm=llm)
    if data is not None and not data.embedding_dict:
        return None  # LlamaIndex's default, in which nothing is
    raise SetupError(
        f"storage_context holds a {type(store).__name__}, which TreeMemoryIndex does not use: it "
        "keeps documents in a memory. Leave storage_context out and give memory='folder', or "
        "StorageContext.from_defaults(vector_store=TreeMemoryVectorStore(memory='folder'))"
    )


def delete_with_parts(memory: TreeMemory, id: str) -> bool:
    """Delete the document called `id` and all parts of it; whether there were any."""
    gone = [one.id for one in memory.list({"$or": [{"id": id}, {PART_OF: id}]})]
    if gone:
        memory.delete(gone)
    return bool(gone)


def _filter(ids: Sequence[str] | None, filters: MetadataFilters | None) -> dict[str, Any] | None:
    parts = [dict(where(filters) or {})]
    if ids is not None:
        parts.append({"$or": [{"id": list(ids)}, {PART_OF: list(ids)}]})
    return {"$and": parts}
