"""LlamaIndex's RayIngestionPipeline with a step that reads into a memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sharedllm import PartedMemory, TreeMemory, loaded
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.llamaindex import TreeMemoryTransform
from tests.integrations.llamaindex.helpers import documents
from tests.models import make_model, make_tokenizer

pytest.importorskip("ray", reason="needs the extra ray")
pipelines = pytest.importorskip(
    "llama_index.ingestion.ray", reason="needs the package llama-index-ingestion-ray"
)
pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray and what it brings
IDS = {"story", "ferry", "garden"}


@pytest.fixture
def named(tmp_path: Path) -> dict[str, Any]:
    """The model that each actor loads."""
    make_model("llama", max_position_embeddings=8192).save_pretrained(tmp_path / "tiny")
    make_tokenizer().save_pretrained(tmp_path / "tiny")
    return {"model": str(tmp_path / "tiny"), "adapter": None, "dtype": "float32", "device": "cpu"}


def component(memory: Path, named: dict[str, Any]) -> Any:
    return pipelines.RayTransformComponent(
        transform_class=TreeMemoryTransform, transform_kwargs={"memory": str(memory), **named}
    )


@pytest.mark.parametrize("parts", [None, 2])
def test_actors_read_into_one_memory(
    tmp_path: Path, named: dict[str, Any], parts: int | None
) -> None:
    """As the pipeline runs them, but in this process."""
    from llama_index.ingestion.ray.transform import TransformActor
    from llama_index.ingestion.ray.utils import (
        ray_deserialize_node_batch,
        ray_serialize_node_batch,
    )

    folder = tmp_path / "library"
    if parts:
        own = loaded(named["model"], adapter=None, dtype="float32", device="cpu")
        PartedMemory(folder, parts, llm=own).close()
    step = component(folder, named)
    actors = [TransformActor(step.transform_class, step.transform_kwargs) for _ in range(2)]
    for _ in range(2):
        nodes = [
            *ray_deserialize_node_batch(actors[0](ray_serialize_node_batch(documents()[:2]))),
            *ray_deserialize_node_batch(actors[1](ray_serialize_node_batch(documents()[1:]))),
        ]
        assert {node.node_id for node in nodes} == IDS
        assert [node.get_content() for node in nodes[:2]] == [one.text for one in documents()[:2]]
    with PartedMemory(folder) if parts else TreeMemory(folder, create=False) as memory:
        assert {stored.id for stored in memory.list()} == IDS
        assert memory.verify().clean


def test_what_no_actor_can_have_is_refused(tmp_path: Path, named: dict[str, Any]) -> None:
    import pickle

    llm = loaded(named["model"], adapter=None, dtype="float32", device="cpu")
    step = TreeMemoryTransform(memory=str(tmp_path / "one"), llm=llm)
    with pytest.raises(SetupError, match="RayIngestionPipeline"):
        pickle.dumps(step)


@pytest.mark.slow
def test_a_pipeline_reads_on_ray(tmp_path: Path, named: dict[str, Any]) -> None:
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        "local",
        num_cpus=2,
        object_store_memory=80 << 20,
        include_dashboard=False,
        log_to_driver=False,
    )
    try:
        pipeline = pipelines.RayIngestionPipeline(
            transformations=[component(tmp_path / "library", named)]
        )
        assert {node.node_id for node in pipeline.run(documents=documents())} == IDS
    finally:
        ray.shutdown()
    with TreeMemory(tmp_path / "library", create=False) as memory:
        assert {stored.id for stored in memory.list()} == IDS
        assert memory.verify().clean
