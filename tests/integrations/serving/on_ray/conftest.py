"""A Ray cluster of four nodes on this machine, and the server on it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sharedllm import SharedLLM, open_memory
from sharedllm_integrations.serving import ServerConfig
from tests.conftest import DOCUMENTS
from tests.integrations.serving.conftest import Serve

NODE = {"num_cpus": 2, "object_store_memory": 80 << 20}
LONG_S = 120  # against hangs: a process of Ray takes seconds to start


@pytest.fixture(scope="package")
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


@pytest.fixture(scope="package")
def port() -> int:
    """One for all applications: Ray Serve keeps to it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="package")
def named(model_folder: Path) -> dict[str, Any]:
    return {"model": str(model_folder), "adapter": None, "dtype": "float32", "device": "cpu"}


@pytest.fixture(scope="package")
def own_llm(named: dict[str, Any]) -> SharedLLM:
    """The model of the server, in this process."""
    place = dict(named)
    return SharedLLM.from_pretrained(place.pop("model"), **place)


@pytest.fixture(scope="package")
def deployed(cluster: Any, port: int, named: dict[str, Any]) -> Serve:
    """Serve on the cluster, in place of what was served before; returns the address."""
    from sharedllm_integrations.serving import RayScale, deploy, ray_serve
    from tests.integrations.serving.on_ray.child import SlowAnswering

    before: list[Any] = []

    def start(
        replicas: str = "2",
        slow: bool = False,
        target: Any = None,
        searchers: int = 0,
        **given: Any,
    ) -> str:
        config = ServerConfig.of(**{**named, "port": port, "timeout": 60, **given})
        scale = RayScale.of(replicas, num_cpus=0.5, target=target, searchers=searchers)
        with pytest.MonkeyPatch.context() as patch:
            if slow:
                patch.setattr(ray_serve, "Answering", SlowAnswering)
            if before[-1:] != [(config, scale, slow)]:
                deploy(config, scale)
                before.append((config, scale, slow))
        return f"http://127.0.0.1:{port}"

    return start


@pytest.fixture(scope="package")
def filled(own_llm: SharedLLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a memory with three documents, which most tests share."""
    folder = tmp_path_factory.mktemp("filled") / "memory"
    open_memory(folder, llm=own_llm, create=True).add(DOCUMENTS)
    return folder


@pytest.fixture
def serve(deployed: Serve, filled: Path, tmp_path: Path) -> Serve:
    def start(**given: Any) -> str:
        return deployed(**{"memory": tmp_path / "served" if "keys" in given else filled, **given})

    return start


@pytest.fixture
def shared_address(serve: Serve) -> str:
    return serve()


def replicas_that(address: str, name: str) -> dict[str, float]:
    """A figure of each replica of the server where it is more than 0."""
    lines = httpx.get(f"{address}/metrics", timeout=60).text.splitlines()
    found = [line.split() for line in lines if line.startswith(f"sharedllm:{name}{{")]
    return {
        one.partition('replica="')[2][:-2]: float(value) for one, value in found if value > "0.0"
    }


def node_of(deployment: str) -> list[str]:
    """The ids of the nodes on which a deployment runs."""
    from ray._private import state

    alive = [one for one in state.actors().values() if one["State"] == "ALIVE"]
    return [one["Address"]["NodeID"] for one in alive if f"#{deployment}#" in one["Name"]]


def kill_node(cluster: Any, id: str) -> None:
    """Kill a node, and put another one in its place."""
    [node] = [one for one in cluster.worker_nodes if one.node_id == id]
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(**NODE)


def within(true: Callable[[], bool]) -> None:
    """Return once `true` is; starting processes takes its time."""
    end = time.monotonic() + LONG_S
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.1)
