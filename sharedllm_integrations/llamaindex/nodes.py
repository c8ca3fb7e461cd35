"""LlamaIndex's nodes and filters <-> documents, passages and filters of a memory.

"Node" is LlamaIndex's word in this folder; nodes of context trees are passages here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import TextBlock
from llama_index.core.schema import (
    BaseNode,
    Document,
    MetadataMode,
    NodeRelationship,
    ObjectType,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)
from pydantic import PrivateAttr

from sharedllm.arguments import checked, shown
from sharedllm_integrations.documents import (
    SOURCES,
    TITLES,
    first_text,
    page_label,
    whole_files,
)
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.references import Reference, Scope, neutral

if TYPE_CHECKING:
    from sharedllm import Hit, MemoryDocument

OPERATORS = {
    FilterOperator.GT: "gt",
    FilterOperator.GTE: "gte",
    FilterOperator.LT: "lt",
    FilterOperator.LTE: "lte",
    FilterOperator.NE: "ne",
    FilterOperator.IN: "in",
}


class DocumentNode(TextNode):
    """A whole document, or a passage of one: its text for everybody, safe in a prompt.

    In LLM mode the content of a whole document is its reference, some thirty tokens that no
    response synthesizer splits or cuts short. Where the reference no longer stands for the text (it
    was changed, the node comes from another process), and of a passage, the content is the text, in
    which nothing reads as a reference.
    """

    _reference: Reference | None = PrivateAttr(default=None)
    _named: str = PrivateAttr(default="")

    def refer(self, reference: Reference) -> DocumentNode:
        """Let `reference` stand for the text that the node has now."""
        self._reference, self._named = reference, self.text
        return self

    @property
    def reference(self) -> Reference | None:
        """The reference that stands for its text in a prompt."""
        return self._reference if self.text == self._named else None

    def get_content(self, metadata_mode: MetadataMode = MetadataMode.NONE) -> str:
        """The reference in LLM mode, the text (and metadata) in every other."""
        if metadata_mode != MetadataMode.LLM:
            return super().get_content(metadata_mode)
        return str(self.reference or neutral(super().get_content(metadata_mode)))

    def get_content_blocks(self, metadata_mode: MetadataMode = MetadataMode.NONE) -> list[Any]:
        """As :meth:`get_content`, for synthesizers that hand blocks on."""
        if metadata_mode != MetadataMode.LLM:
            return super().get_content_blocks(metadata_mode)
        return [TextBlock(text=self.get_content(metadata_mode))]


def to_memory(node: BaseNode) -> MemoryDocument:
    """`node` as a document of a memory; title and source are taken from its metadata."""
    from sharedllm import MemoryDocument

    return MemoryDocument(
        id=node.node_id,
        text=node.get_content(metadata_mode=MetadataMode.NONE),
        title=first_text(node.metadata, TITLES),
        source=first_text(node.metadata, SOURCES),
        metadata=node.metadata,
    )


def whole(document: MemoryDocument, scope: Scope | None) -> DocumentNode:
    """A whole document of a memory, by its reference in prompts if there is a `scope`."""
    node = DocumentNode(
        id_=document.id,
        text=document.text,
        extra_info=dict(document.metadata),
        relationships=_of(document.id, document.metadata),
        start_char_idx=0,
        end_char_idx=len(document.text),
    )
    return node.refer(scope.reference(document.id, document.text)) if scope else node


def passage(hit: Hit) -> DocumentNode:
    """A passage that was found, with its place in its document."""
    return DocumentNode(
        id_=f"{hit.id}:{hit.char_start}-{hit.char_end}",
        text=hit.text,
        extra_info={**hit.metadata, **page_label(hit.page)},
        relationships=_of(hit.id, hit.metadata),
        start_char_idx=hit.char_start,
        end_char_idx=hit.char_end,
    )


def span(
    citation: Mapping[str, Any], id: str, metadata: Mapping[str, Any], number: int
) -> DocumentNode:
    """A selected passage of the document called `id`, with its metadata and its place."""
    start, end = citation["char_start"], citation["char_end"]
    own = {
        "number": number,
        "title": citation["title"],
        "source": citation["source"],
        "tree_level": citation["level"],
        **page_label(citation["page"]),
    }
    return DocumentNode(
        id_=f"{id}:{start}-{end}",
        text=citation["text"],
        extra_info={**metadata, **own},
        relationships=_of(id, metadata),
        start_char_idx=start,
        end_char_idx=end,
    )


def where(filters: MetadataFilters | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The filter as ``TreeMemory.search`` takes it.

    Raises
    ------
    SetupError
        If a memory cannot filter like this.
    """
    if filters is None or isinstance(filters, Mapping):
        return filters
    if not isinstance(filters, MetadataFilters):
        raise SetupError(
            f"filters is {shown(filters)}; give MetadataFilters, or a mapping of fields to values"
        )
    if filters.condition not in (None, FilterCondition.AND) and len(filters.filters) > 1:
        raise SetupError(
            f"filters are joined by {filters.condition!r}; a memory joins them by 'and' only. "
            "Retrieve once for each, or use the operator 'in'"
        )
    out: dict[str, Any] = {}
    for one in filters.filters:
        if not isinstance(one, MetadataFilter):
            raise SetupError("filters are nested; give one list of MetadataFilter")
        held = out.setdefault(one.key, {})
        operator = "in" if one.operator == FilterOperator.EQ else OPERATORS.get(one.operator)
        if operator is None or operator in held:
            allowed = ", ".join(f"{o.value!r}" for o in (FilterOperator.EQ, *OPERATORS))
            raise SetupError(
                f"the filter of {one.key!r} has the operator {one.operator.value!r}"
                f"{' twice' if operator else ''}; allowed, once each: {allowed}"
            )
        held[operator] = [one.value] if one.operator == FilterOperator.EQ else one.value
    return out


@checked(error=SetupError)
def whole_documents(documents: Iterable[Document]) -> list[Document]:
    """One document a file, of those that ``SimpleDirectoryReader`` made one a page of a PDF.

    Its id is its path, so that ``refresh`` knows it again, and citations of it say their page.
    Documents that are no pages (no ``page_label`` in their metadata) stay as they are.
    """
    out = []
    for page, metadata, text in whole_files(
        documents, lambda d: d.metadata, lambda d: (d.get_content(MetadataMode.NONE), None)
    ):
        if text is None:
            out.append(page)
            continue
        excluded = {
            "excluded_embed_metadata_keys": page.excluded_embed_metadata_keys,
            "excluded_llm_metadata_keys": page.excluded_llm_metadata_keys,
        }
        name = first_text(metadata, SOURCES)
        out.append(Document(id_=name, text=text, metadata=metadata, **excluded))
    return out


def _of(id: str, metadata: Mapping[str, Any]) -> dict[NodeRelationship, Any]:
    source = RelatedNodeInfo(node_id=id, node_type=ObjectType.DOCUMENT, metadata=dict(metadata))
    return {NodeRelationship.SOURCE: source}
