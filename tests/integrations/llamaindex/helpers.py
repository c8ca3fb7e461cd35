"""Documents, retrievers and listeners for the tests of LlamaIndex's adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llama_index.core import Document, instrumentation
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from pydantic import Field

from sharedllm_integrations.llamaindex import LlamaIndexSharedLLM
from tests.texts import FERRY, GARDEN, STORY

QUESTION = "When does the ferry leave?"
LONG = "\n\n".join(  # more than LlamaIndex puts into a window of 4K
    f"Entry {n}. On day {n} the keeper of the light at Penmor wrote that lamp {n * 7} was lit at "
    f"dusk, that the wind came from the west, and that {n} gulls sat on the rail."
    for n in range(150)
)
SEVEN = "The number of the boathouse is seven."


def documents() -> list[Document]:
    return [
        Document(
            id_="story", text=STORY, metadata={"title": "The lighthouse", "source": "story.txt"}
        ),
        Document(id_="ferry", text=FERRY, metadata={"title": "The ferry", "year": 1871}),
        Document(id_="garden", text=GARDEN, metadata={"year": 1902}),
    ]


class Fixed(BaseRetriever):
    """Somebody else's retriever: nodes with their plain texts."""

    def __init__(self, *texts: str) -> None:
        self.nodes = [NodeWithScore(node=TextNode(text=text), score=1.0) for text in texts]
        super().__init__()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self.nodes


class Heard(BaseEventHandler):
    """Keeps what it hears."""

    events: list[Any] = Field(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        return "Heard"

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        self.events.append(event)

    def names(self) -> list[str]:
        return [event.class_name() for event in self.events]


@contextmanager
def listening() -> Iterator[Heard]:
    """Hears every event of LlamaIndex within."""
    root: Any = instrumentation.get_dispatcher()  # type: ignore[attr-defined]
    heard = Heard()
    root.event_handlers.append(heard)
    try:
        yield heard
    finally:
        root.event_handlers.remove(heard)


def model(core: Any, **options: Any) -> LlamaIndexSharedLLM:
    return LlamaIndexSharedLLM(llm=core, **{"max_tokens": 6, **options})
