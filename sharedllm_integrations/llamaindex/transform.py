"""TreeMemoryTransform: reads documents into a tree memory, as a step of an IngestionPipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.schema import BaseNode, TransformComponent

from sharedllm.arguments import checked
from sharedllm_integrations.engine import memory_to_fill
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.llamaindex.nodes import to_memory, whole
from sharedllm_integrations.memories import put
from sharedllm_integrations.references import Scope
from sharedllm_integrations.settings import ModelFields
from sharedllm_integrations.worker import in_thread

if TYPE_CHECKING:
    from sharedllm import TreeMemory


class TreeMemoryTransform(ModelFields, TransformComponent):
    """Reads each document into a memory and hands it on as a whole.

    Put it first, before anything that splits. What the memory holds under the same id is not read
    again, and what has changed is updated.

    The pipeline's cache goes by the settings here and by the state of the memory: after an
    update or deletion, by any process, nothing is taken from the cache that was put there before.
    Documents are known again by their ids, so give them ids that last
    (``SimpleDirectoryReader(filename_as_id=True)``).

    Of a ``RayIngestionPipeline`` each actor makes its own, with a model that it loads once:
    ``RayTransformComponent(transform_class=TreeMemoryTransform, transform_kwargs={"memory":
    folder})``. All write to one memory, in turn.

    Parameters
    ----------
    memory : TreeMemory, or the path of one (made where there is none)
    model, adapter, device, dtype : what a new memory is made by, as for LlamaIndexSharedLLM
    llm : a SharedLLM that is loaded already, in place of `model`
    tenant : of the references of the nodes
    references : let a node's content in LLM mode be its reference, for a LlamaIndexSharedLLM of the
        same memory and tenant; otherwise it is the text

    Raises
    ------
    SetupError
        Also by ``run(num_workers=2)`` and more, which would start processes with a model each.
    SharedLLMError
    """

    memory: Any
    references: bool = False

    @classmethod
    def class_name(cls) -> str:
        """The name by which LlamaIndex knows it."""
        return "TreeMemoryTransform"

    @checked(error=SetupError)
    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[BaseNode]:
        """Read `nodes`, and give back one whole node for each; those without text are left out."""
        memory, out = self._opened(), list[BaseNode]()
        scope = Scope.of(memory, self.tenant)
        for node in nodes:
            if node.get_content().strip():
                document = to_memory(node)
                put(memory, document)
                out.append(whole(document, scope, refers=self.references))
        return out

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[BaseNode]:
        """The same without holding up the event loop."""
        return await in_thread(lambda: self(nodes, **kwargs))

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Its settings and the state of its memory: what the pipeline's cache goes by."""
        memory = self._opened()
        own = super().to_dict(**kwargs)
        return {**own, "memory": str(memory.path.resolve()), "revision": memory.revision}

    def __getstate__(self) -> dict[Any, Any]:
        """Refuse other processes: `num_workers` above 1 is what pickles a step of a pipeline."""
        raise SetupError(
            "TreeMemoryTransform cannot be sent to other processes: each would load a model of its "
            "own, and one memory is written by one process at a time. Leave num_workers out, or "
            "run a pipeline with num_workers for the other steps and give this one what it "
            "returns. A RayIngestionPipeline makes it on its actors: RayTransformComponent("
            "transform_class=TreeMemoryTransform, transform_kwargs={'memory': folder})"
        )

    def _opened(self) -> TreeMemory:
        return memory_to_fill(self)
