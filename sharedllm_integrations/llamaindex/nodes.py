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
    make_document,
    match_of,
    page_label,
    section_of,
    whole_files,
)
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.references import Reference, Scope, neutral
from sharedllm_integrations.resolution import held_texts

if TYPE_CHECKING:
    from sharedllm import Hit, MemoryDocument

OPERATORS = {
    FilterOperator.EQ: "in",
    FilterOperator.NE: "ne",
    FilterOperator.GT: "gt",
    FilterOperator.GTE: "gte",
    FilterOperator.LT: "lt",
    FilterOperator.LTE: "lte",
    FilterOperator.IN: "in",
    FilterOperator.NIN: "nin",
    FilterOperator.CONTAINS: "contains",
    FilterOperator.TEXT_MATCH: "contains",
}
SEVERAL = {FilterOperator.ANY: "$or", FilterOperator.ALL: "$and"}
PART_OF = "ref_doc_id"  # in the metadata of a part of a document: whose it is


class DocumentNode(TextNode):
    """A whole document, or a passage of one: its text for everybody, safe in a prompt.

    Where a LlamaIndexSharedLLM reads it, the content of a whole document in LLM mode can be its
    reference, some thirty tokens that no response synthesizer splits or cuts short
    (:meth:`referring`). Where the reference no longer stands for the text (it was changed, the node
    comes from another process), and of a passage, the content is the text, in which nothing reads
    as a reference.
    """

    _reference: Reference | None = PrivateAttr(default=None)
    _scope: Scope | None = PrivateAttr(default=None)
    _named: str = PrivateAttr(default="")
    _refers: bool = PrivateAttr(default=False)

    def refer(self, reference: Reference, scope: Scope, *, refers: bool) -> DocumentNode:
        """Let `reference` stand for the text that the node has now.

        Parameters
        ----------
        scope : that the reference belongs to
        refers : whether prompts get the reference
        """
        self._reference, self._scope, self._named = reference, scope, self.text
        self._refers = refers
        return self

    def referring(self, scope: Scope) -> DocumentNode:
        """This node as a model of `scope` reads it: by its reference, if it is of that scope."""
        if self._scope != scope or self.reference is None:
            return self
        made = self.model_copy()
        made._refers = True
        return made

    def bare(self) -> DocumentNode:
        """This node with its text in every mode."""
        if not self._refers:
            return self
        made = self.model_copy()
        made._refers = False
        return made

    @property
    def reference(self) -> Reference | None:
        """The reference that stands for its text in a prompt."""
        return self._reference if self.text == self._named else None

    def get_content(self, metadata_mode: MetadataMode = MetadataMode.NONE) -> str:
        """The text (and metadata), or in LLM mode the reference where prompts get it."""
        if metadata_mode != MetadataMode.LLM:
            return super().get_content(metadata_mode)
        if self._refers and self.reference is not None:
            return str(self.reference)
        return neutral(super().get_content(metadata_mode))

    def get_content_blocks(self, metadata_mode: MetadataMode = MetadataMode.NONE) -> list[Any]:
        """As :meth:`get_content`, for synthesizers that hand blocks on."""
        if metadata_mode != MetadataMode.LLM:
            return super().get_content_blocks(metadata_mode)
        return [TextBlock(text=self.get_content(metadata_mode))]


def to_memory(node: BaseNode) -> MemoryDocument:
    """`node` as a document of a memory; title and source are taken from its metadata.

    A part of a document, as node parsers make them, is a document of its own that knows whose part
    it is.

    Raises
    ------
    DocumentValueError
        If a memory cannot hold a value; the message names document and field.
    """
    is_part = node.ref_doc_id not in (None, node.node_id)
    return make_document(
        id=node.node_id,
        text=node.get_content(metadata_mode=MetadataMode.NONE),
        title=first_text(node.metadata, TITLES),
        source=first_text(node.metadata, SOURCES),
        metadata={**node.metadata, **({PART_OF: node.ref_doc_id} if is_part else {})},
    )


def whole(document: MemoryDocument, scope: Scope, *, refers: bool) -> DocumentNode:
    """A whole document of a memory.

    Parameters
    ----------
    scope : that its reference belongs to
    refers : whether prompts get the reference; otherwise they get the text
    """
    metadata, part_of = _origin(document.id, document.metadata)
    node = DocumentNode(
        id_=document.id,
        text=document.text,
        extra_info=metadata,
        relationships=_of(part_of, metadata),
        start_char_idx=0,
        end_char_idx=len(document.text),
    )
    if not refers:
        held_texts.give_out(scope, document.id, document.text)
    return node.refer(scope.reference(document.id, document.text), scope, refers=refers)


def passage(hit: Hit) -> DocumentNode:
    """A passage that was found, with its place in its document and the sentence that matches."""
    metadata, _ = _origin(hit.id, hit.metadata)
    match = match_of(hit.match_start, hit.match_end, hit.round, hit.sought)
    return DocumentNode(
        id_=f"{hit.id}:{hit.char_start}-{hit.char_end}",
        text=hit.text,
        extra_info={
            **metadata,
            **page_label(hit.page, hit.end_page),
            **section_of(hit.section),
            **match,
        },
        excluded_llm_metadata_keys=[*match],
        excluded_embed_metadata_keys=[*match],
        relationships=_of(hit.id, metadata),
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
        **page_label(citation["page"], citation["end_page"]),
        **section_of(citation["section"]),
    }
    match = match_of(*(citation[key] for key in ("match_start", "match_end", "round", "sought")))
    return DocumentNode(
        id_=f"{id}:{start}-{end}",
        text=citation["text"],
        extra_info={**metadata, **own, **match},
        excluded_llm_metadata_keys=[*match],
        excluded_embed_metadata_keys=[*match],
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
    parts = [
        _condition(one) if isinstance(one, MetadataFilter) else where(one) or {}
        for one in filters.filters
    ]
    if not parts:
        return None
    if filters.condition == FilterCondition.OR:
        return {"$or": parts}
    if filters.condition == FilterCondition.NOT:
        return {"$not": {"$or": parts}}
    return {"$and": parts}


def _condition(one: MetadataFilter) -> Mapping[str, Any]:
    operator, value = one.operator, one.value
    if operator in SEVERAL:
        if not isinstance(value, list):
            raise SetupError(
                f"the filter of {one.key!r} has the operator {operator.value!r} with {value!r}; "
                "give a list"
            )
        return {SEVERAL[operator]: [{one.key: {"contains": each}} for each in value]}
    if operator == FilterOperator.IS_EMPTY:
        return {one.key: {"empty": True}}
    if operator not in OPERATORS:
        allowed = ", ".join(repr(o.value) for o in (*OPERATORS, *SEVERAL, FilterOperator.IS_EMPTY))
        raise SetupError(
            f"the filter of {one.key!r} has the operator {operator.value!r}; allowed: {allowed}"
        )
    if value is None:
        raise SetupError(
            f"the filter of {one.key!r} has no value; to find documents without the "
            "field use the operator 'is_empty'"
        )
    is_equal = operator == FilterOperator.EQ and not isinstance(value, list)
    return {one.key: {OPERATORS[operator]: [value] if is_equal else value}}


@checked(error=SetupError)
def whole_documents(documents: Iterable[Document]) -> list[Document]:
    """One document a file, of those that ``SimpleDirectoryReader`` made one a page of a PDF.

    Its id is its path, so that ``refresh`` knows it again, and citations of it say their page.
    Documents that are no pages (no ``page_label``, ``page_number`` or ``page`` in their metadata)
    stay as they are.
    """
    out = []
    for page, metadata, text in whole_files(
        Document, documents, lambda d: d.metadata, lambda d: d.get_content(MetadataMode.NONE)
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


def _origin(id: str, metadata: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The metadata as they were given, and the id of the document that it is a part of."""
    own = dict(metadata)
    part_of = own.pop(PART_OF, None)
    return own, part_of if isinstance(part_of, str) and part_of else id


def _of(id: str, metadata: Mapping[str, Any]) -> dict[NodeRelationship, Any]:
    source = RelatedNodeInfo(node_id=id, node_type=ObjectType.DOCUMENT, metadata=dict(metadata))
    return {NodeRelationship.SOURCE: source}
