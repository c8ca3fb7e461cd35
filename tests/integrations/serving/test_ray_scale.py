"""The scale of a server on Ray, and which replica gets a request; no cluster is needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from sharedllm.cli.main import main
from sharedllm_integrations.errors import MissingFrameworkError, SetupError

pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray and what it brings


@pytest.mark.parametrize(
    ("replicas", "given"),
    [
        ("0", {}),
        ("", {}),
        ("x", {}),
        ("-1", {}),
        ("1-", {}),
        ("3-2", {}),
        ("1-2-3", {}),
        ("1.5", {}),
        ("99999999999", {}),
        ("1", {"num_cpus": -1}),
        ("1", {"num_gpus": float("nan")}),
        ("1", {"num_gpus": 1.5}),
        ("1", {"target": 0}),
        ("1", {"surprise": 1}),
    ],
)
def test_scales_that_cannot_be_are_refused(replicas: str, given: dict[str, Any]) -> None:
    from sharedllm_integrations.serving import RayScale

    with pytest.raises(SetupError):
        RayScale.of(replicas, **given)


def test_a_scale_is_read() -> None:
    from sharedllm_integrations.serving import RayScale

    made = RayScale.of("2-5", num_cpus=0.5, num_gpus=0.25)
    assert (made.replicas, made.most) == (2, 5)
    assert made.resources == {"num_cpus": 0.5, "num_gpus": 0.25}
    assert RayScale.of("3", num_gpus=2).most == 3


@pytest.mark.parametrize("option", [["--replicas", "2"], ["--cpus", "1"], ["--gpus", "0"]])
def test_what_is_of_ray_needs_ray(
    option: list[str], tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--memory", str(tmp_path / "m"), *option]) == 2
    assert "--ray" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_no_ray_names_the_extra(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    import sharedllm_integrations.serving as serving

    monkeypatch.delitem(sys.modules, "sharedllm_integrations.serving.ray_serve", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingFrameworkError, match=r"sharedllm\[ray\]"):
        serving.RayScale  # noqa: B018
    assert main(["serve", "--memory", str(tmp_path / "m"), "--ray", "local"]) == 2
    told = capsys.readouterr().err
    assert "sharedllm[ray]" in told
    assert len(told.strip().splitlines()) == 1


def test_a_process_without_a_cluster_is_told_so(tmp_path: Any) -> None:
    from sharedllm_integrations.serving import RayScale, ServerConfig, deploy

    with pytest.raises(SetupError, match=r"ray\.init"):
        deploy(ServerConfig.of(memory=tmp_path / "m"), RayScale())


@dataclass
class Replica:
    """A replica as Ray's routers see it."""

    name: str
    replica_id: Any = field(init=False)

    def __post_init__(self) -> None:
        self.replica_id = SimpleNamespace(unique_id=self.name)


def router(held: dict[str, int], busy: int = 2) -> Any:
    """A router that knows how many requests each replica has."""
    from sharedllm_integrations.serving.ray_routing import HomeRouter

    made: Any = object.__new__(HomeRouter)
    made.initialize_state(busy=busy)
    made._replica_queue_len_cache = SimpleNamespace(get=lambda id: held.get(id.unique_id))
    return made


def pending(home: str) -> Any:
    return SimpleNamespace(
        metadata=SimpleNamespace(session_id=home, internal_request_id="r"),
        routing_context=SimpleNamespace(should_backoff=False),
    )


async def test_requests_keep_to_their_home_until_it_is_busy() -> None:
    replicas = [Replica(f"r{n}") for n in range(8)]
    homes = [f"home {n}" for n in range(200)]

    async def first(held: dict[str, int], among: list[Any]) -> dict[str, str]:
        own = router(held)
        return {
            home: (await own.choose_replicas(among, pending(home)))[0][0].name for home in homes
        }

    before = await first({}, replicas)
    one_each = dict.fromkeys([one.name for one in replicas], 1)
    assert before == await first(one_each, replicas[::-1])  # each router finds the same
    assert len(set(before.values())) == 8
    without = await first({}, replicas[1:])
    assert all(without[home] == before[home] for home in homes if before[home] != "r0")
    busy = await first({"r0": 1}, replicas)  # the others have none
    assert "r0" not in busy.values()
    assert busy == without  # the next one is the same that takes its place when it has gone
    full, order = await router({one.name: 5 for one in replicas}).choose_replicas(
        replicas, pending("home 1")
    )
    assert full == []
    assert len(order) == 8  # of which Ray takes the least loaded
