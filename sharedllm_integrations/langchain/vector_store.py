"""TreeMemoryVectorStore: a tree memory where LangChain's programs have a vector store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from sharedllm.arguments import checked
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.langchain.documents import retrieved
from sharedllm_integrations.langchain.retriever import TreeMemoryRetriever
from sharedllm_integrations.memories import find_hits, require_count
from sharedllm_integrations.references import Scope

if TYPE_CHECKING:
    from sharedllm import TreeMemory

SIMILARITY = (
    "a memory finds by its own search; use similarity_search or as_retriever(search_kwargs="
    "{'k': 4, 'filter': {...}})"
)


class TreeMemoryVectorStore(VectorStore):
    """Keeps documents in a memory, and finds them without embeddings.

    For programs that are written for a vector store: ``add_documents``, ``similarity_search``,
    ``as_retriever``, LangChain's ``ParentDocumentRetriever``. Where a retriever will do,
    :class:`TreeMemoryRetriever` is one.

    Parameters
    ----------
    memory : TreeMemory, the path of one (made where there is none), or None for one that lasts as
        long as the process
    filter : metadata filter, as ``TreeMemory.search`` takes it
    llm : a SharedLLM that is loaded already, for a memory that is made here
    notes : take notes of what is added, as in :class:`TreeMemoryRetriever`

    Raises
    ------
    SetupError
        For searches that a memory has not: by vector, for diversity, above a threshold.
    SharedLLMError
        Of the core, if the memory cannot be used.
    """

    @checked(error=SetupError)
    def __init__(
        self,
        memory: Any = None,
        *,
        filter: Mapping[str, Any] | None = None,
        llm: Any = None,
        notes: bool = False,
    ) -> None:
        self._retriever = TreeMemoryRetriever(memory=memory, filter=filter, llm=llm, notes=notes)

    @property
    def memory(self) -> TreeMemory:
        """The memory, made where there is none."""
        return self._retriever._memory

    # -- keeping -------------------------------------------------------------------------------

    @checked(error=SetupError)
    def add_documents(self, documents: list[Document], **kwargs: Any) -> list[str]:
        """Read documents, or change those that are there under their ids.

        Parameters
        ----------
        kwargs : ``ids``, one a document, in place of their own

        Raises
        ------
        SetupError
            If one has no text, or there is another number of ids.
        DocumentValueError
            If a memory cannot hold a value of one; nothing is added then.
        """
        ids = kwargs.pop("ids", None)
        if ids is not None:
            if len(ids) != len(documents):
                raise SetupError(f"{len(ids)} ids for {len(documents)} documents; give one each")
            pairs = zip(documents, ids, strict=True)
            documents = [d.model_copy(update={"id": id or d.id}) for d, id in pairs]
        for number, document in enumerate(documents):
            if not document.page_content.strip():
                raise SetupError(
                    f"document {document.id or number!r} has no text; leave it out: nothing was "
                    "added"
                )
        return list(self._retriever.upsert(documents)["succeeded"])

    @checked(error=SetupError)
    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[Any, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Read texts; see :meth:`add_documents`."""
        given = list(texts)
        own = metadatas or [{} for _ in given]
        if len(own) != len(given):
            raise SetupError(f"{len(own)} metadatas for {len(given)} texts; give one each")
        documents = [Document(text, metadata=m) for text, m in zip(given, own, strict=True)]
        return self.add_documents(documents, ids=ids)

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings | None = None,
        metadatas: list[dict[Any, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> TreeMemoryVectorStore:
        """A store with these texts.

        Parameters
        ----------
        embedding : taken for the sake of programs that give it; nothing is embedded
        kwargs : those of the class
        """
        made = cls(**kwargs)
        made.add_texts(texts, metadatas, ids=ids)
        return made

    @classmethod
    def from_documents(
        cls, documents: list[Document], embedding: Embeddings | None = None, **kwargs: Any
    ) -> TreeMemoryVectorStore:
        """A store with these documents; see :meth:`from_texts`."""
        ids = kwargs.pop("ids", None)
        made = cls(**kwargs)
        made.add_documents(documents, ids=ids)
        return made

    @checked(error=SetupError)
    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Delete documents; those that are not there are passed over.

        Raises
        ------
        SetupError
            Without ids.
        """
        self._retriever.delete(ids, **kwargs)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents with these ids, as they were put in."""
        return self._retriever.get(ids)

    # -- finding -------------------------------------------------------------------------------

    @checked(error=SetupError)
    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """The documents that match `query` best, whole, best first.

        Parameters
        ----------
        kwargs : ``filter``, as ``TreeMemory.search`` takes it
        """
        return [document for document, _ in self.similarity_search_with_score(query, k, **kwargs)]

    @checked(error=SetupError)
    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """As :meth:`similarity_search`, with the scores of the memory's search: higher is better.

        Raises
        ------
        SetupError
            For arguments that it does not know.
        """
        if kwargs:
            raise SetupError(f"the search does not know {', '.join(kwargs)}; {SIMILARITY}")
        wanted, memory = require_count("k", k), self._retriever._to_read()
        if memory is None:
            return []
        where = self._retriever.filter if filter is None else filter
        hits = find_hits(memory, query, wanted, where, "documents")
        scope = Scope.of(memory, "")
        return [(retrieved(memory.get(h.id), scope, references=False), h.score) for h in hits]

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, **kwargs: Any
    ) -> list[Document]:
        """Refused: a memory searches for words."""
        raise SetupError(f"a search by vector; {SIMILARITY}")

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **kwargs: Any,
    ) -> list[Document]:
        """Refused: a memory gives every document once, which needs no diversity."""
        raise SetupError(f"search_type 'mmr'; {SIMILARITY}")

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        raise SetupError(f"search_type 'similarity_score_threshold'; {SIMILARITY}")
