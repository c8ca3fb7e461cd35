"""LlamaIndex's nodes <-> documents and passages of a memory.

"Node" is LlamaIndex's word in this folder; the nodes of context trees are called spans here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import TextBlock
from llama_index.core.schema import (
    BaseNode,
    MetadataMode,
    NodeRelationship,
    ObjectType,
    RelatedNodeInfo,
    TextNode,
)
from pydantic import PrivateAttr

from sharedllm_integrations.grants import is_valid, ticket
from sharedllm_integrations.handles import opening
from sharedllm_integrations.names import SOURCES, TITLES, first_text, page_label
from sharedllm_integrations.origins import issue
from sharedllm_integrations.turns import Given

if TYPE_CHECKING:
    from sharedllm import Hit, MemoryDocument, TreeMemory


class DocumentNode(TextNode):
    """A whole document: its text for everybody, a ticket for the prompt of a SharedLLM.

    In LLM mode its content is the ticket, some thirty tokens that no response synthesizer splits
    or cuts short. Where the ticket no longer stands for its text (the text was changed, the node
    comes from another process), the content is the text.
    """

    _tenant: str = PrivateAttr(default="")
    _ticket: str = PrivateAttr(default="")
    _ticket_text: str = PrivateAttr(default="")

    def admit(self, tenant: str, document: str | Given) -> DocumentNode:
        """Give it a ticket for the document that its text is."""
        self._tenant, self._ticket = tenant, ticket(tenant, document)
        self._ticket_text = self.text
        return self

    def get_content(self, metadata_mode: MetadataMode = MetadataMode.NONE) -> str:
        """The ticket in LLM mode, the text (and metadata) in every other."""
        if metadata_mode == MetadataMode.LLM and self._stands_for_its_text():
            return opening(self._ticket)
        return super().get_content(metadata_mode)

    def get_content_blocks(self, metadata_mode: MetadataMode = MetadataMode.NONE) -> list[Any]:
        """As :meth:`get_content`, for synthesizers that hand blocks on."""
        if metadata_mode == MetadataMode.LLM and self._stands_for_its_text():
            return [TextBlock(text=opening(self._ticket))]
        return super().get_content_blocks(metadata_mode)

    def _stands_for_its_text(self) -> bool:
        valid = bool(self._ticket) and is_valid(self._ticket, self._tenant)
        return valid and self.text == self._ticket_text


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


def whole(
    document: MemoryDocument, memory: TreeMemory, tenant: str, *, tickets: bool
) -> DocumentNode:
    """A whole document of a memory."""
    node = DocumentNode(
        id_=document.id,
        text=document.text,
        extra_info=dict(document.metadata),
        relationships=_of(document.id, document.metadata),
        start_char_idx=0,
        end_char_idx=len(document.text),
    )
    handle = issue(memory, document, tenant)
    return node.admit(tenant, handle) if tickets else node


def passage(hit: Hit) -> TextNode:
    """A passage that was found, with its place in its document."""
    return TextNode(
        id_=f"{hit.id}:{hit.char_start}-{hit.char_end}",
        text=hit.text,
        metadata={**hit.metadata, **page_label(hit.page)},
        relationships=_of(hit.id, hit.metadata),
        start_char_idx=hit.char_start,
        end_char_idx=hit.char_end,
    )


def span(
    citation: Mapping[str, Any], id: str, metadata: Mapping[str, Any], number: int
) -> TextNode:
    """A selected span of the document called `id`, with that document's metadata and its place."""
    start, end = citation["char_start"], citation["char_end"]
    own = {
        "number": number,
        "title": citation["title"],
        "source": citation["source"],
        "tree_level": citation["level"],
        **page_label(citation["page"]),
    }
    return TextNode(
        id_=f"{id}:{start}-{end}",
        text=citation["text"],
        metadata={**metadata, **own},
        relationships=_of(id, metadata),
        start_char_idx=start,
        end_char_idx=end,
    )


def _of(id: str, metadata: Mapping[str, Any]) -> dict[NodeRelationship, Any]:
    source = RelatedNodeInfo(node_id=id, node_type=ObjectType.DOCUMENT, metadata=dict(metadata))
    return {NodeRelationship.SOURCE: source}
