"""The server on a Ray cluster of four nodes: the same API, and what is left when some of it dies.

pytest -m slow tests/integrations/serving/test_ray_serve.py
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sharedllm import SharedLLM, open_memory
from sharedllm_integrations.serving import ServerConfig
from tests.conftest import DOCUMENTS
from tests.integrations.serving.conftest import Serve
from tests.integrations.serving.test_answers import (  # noqa: F401  # the same tests, on Ray
    test_a_question_is_answered_from_the_memory,
    test_a_stop_text_ends_the_answer,
    test_a_stream_says_the_same_as_the_whole,
    test_file_search_names_the_store_and_filters,
    test_other_sites_pages_are_refused_without_keys,
    test_the_official_client_raises_its_own_errors,
)
from tests.integrations.serving.test_recorded import (  # noqa: F401
    test_recorded_requests_are_answered,
)
from tests.integrations.serving.test_responses import (  # noqa: F401
    test_the_events_of_a_stream_make_the_response,
    test_what_is_kept_cannot_be_cancelled_or_streamed,
)
from tests.integrations.serving.test_stores import (  # noqa: F401
    test_a_store_reads_searches_filters_and_forgets,
    test_any_id_of_an_index_can_be_named,
    test_batches_and_files_that_cannot_be_read,
    test_filters_of_another_form_are_refused,
    test_unknown_cursors_are_refused,
    test_uploads_that_are_too_long_or_empty_are_refused,
)
from tests.integrations.serving.test_tenants import (  # noqa: F401
    test_a_tenant_sees_its_own_only,
    test_wrong_keys_are_refused,
)
from tests.models import make_model, make_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of Ray and what it brings
ASKED: Any = [{"role": "user", "content": "Who lit the lamp of the lighthouse?"}]
ROOT = Path(__file__).parents[3]
NODE = {"num_cpus": 2, "object_store_memory": 80 << 20}
LONG_S = 120  # against hangs: a process of Ray takes seconds to start


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster of four nodes on this machine; the first one runs no process of the server."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = pytest.importorskip("ray")
    from ray import serve
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True,
        head_node_args={**NODE, "num_cpus": 0, "include_dashboard": False},
        shutdown_at_exit=True,
    )
    for _ in range(3):
        made.add_node(**NODE)
    ray.init(address=made.address, log_to_driver=False)
    yield made
    serve.shutdown()
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def port() -> int:
    """One for all applications: Ray Serve keeps to it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_model("llama", max_position_embeddings=8192).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def named(model_folder: Path) -> dict[str, Any]:
    return {"model": str(model_folder), "adapter": None, "dtype": "float32", "device": "cpu"}


@pytest.fixture(scope="module")
def own_llm(named: dict[str, Any]) -> SharedLLM:
    """The model of the server, in this process."""
    place = dict(named)
    return SharedLLM.from_pretrained(place.pop("model"), **place)


@pytest.fixture(scope="module")
def deployed(cluster: Any, port: int, named: dict[str, Any]) -> Serve:
    """Serve on the cluster, in place of what was served before; returns the address."""
    from sharedllm_integrations.serving import RayScale, deploy

    before: list[ServerConfig] = []

    def start(replicas: str = "2", **given: Any) -> str:
        config = ServerConfig.of(**{**named, "port": port, "timeout": 60, **given})
        if before[-1:] != [config]:
            deploy(config, RayScale.of(replicas, num_cpus=0.5))
            before.append(config)
        return f"http://127.0.0.1:{port}"

    return start


@pytest.fixture(scope="module")
def asked_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("asked") / "memory"


@pytest.fixture
def shared_address(deployed: Serve, asked_folder: Path) -> str:
    return deployed(memory=asked_folder)


@pytest.fixture
def serve(deployed: Serve, tmp_path: Path) -> Serve:
    return lambda **given: deployed(**{"memory": tmp_path / "served", **given})


@pytest.fixture
def filled(own_llm: SharedLLM, tmp_path: Path) -> Path:
    folder = tmp_path / "served"
    with open_memory(folder, llm=own_llm, create=True) as memory:
        memory.add(DOCUMENTS)
    return folder
