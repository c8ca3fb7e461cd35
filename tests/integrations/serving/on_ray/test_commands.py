"""index, ask and serve with ``--ray`` on a cluster do what they do in one process.

pytest -m slow tests/integrations/serving/on_ray
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from sharedllm import SharedLLM
from sharedllm.cli.main import main
from sharedllm_integrations.serving import ServerConfig
from tests.integrations.serving.conftest import client_of, model_of, read, served
from tests.integrations.serving.on_ray.conftest import LONG_S, within
from tests.memory.test_parted_memory import small
from tests.texts import GARDEN

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of Ray and what it brings
ROOT = Path(__file__).parents[4]
QUESTIONS = ("Where is the cedar?", "Who lit the lamp?", "What does a ticket cost?")


@pytest.fixture
def memories(
    cluster: Any,
    named: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> list[Path]:
    """The folders of two memories of the same files: read here, and read on Ray."""
    files = tmp_path / "in"
    files.mkdir()
    for number in range(20):
        (files / f"{number:03}.txt").write_text(small(number).text)
    made = [tmp_path / "one", tmp_path / "parts"]
    for folder, more in zip(made, ([], ["--ray", cluster.address, "--actors", "2"]), strict=True):
        given = ["--memory", str(folder), *options(named), *more, "--json"]
        assert main(["index", str(files), *given]) == 0
        assert json.loads(capsys.readouterr().out)["documents"] == 20
    return made


def options(named: dict[str, Any]) -> list[str]:
    return ["--model", named["model"], "--adapter", "none", "--dtype", "float32"]


def told(answer: Any) -> list[Any]:
    """What an answer and its citations say, apart from times."""
    extra: Any = answer.model_extra
    kept = ("document", "text", "char_start", "char_end")
    cited = [{name: one[name] for name in kept} for one in extra["sharedllm"]["citations"]]
    return [answer.choices[0].message.content, cited]


def test_the_commands_say_the_same(
    memories: list[Path],
    named: dict[str, Any],
    own_llm: SharedLLM,
    cluster: Any,
    port: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one, parts = memories
    for question in QUESTIONS:
        found = []
        for folder in memories:
            given = ["-q", question, "--memory", str(folder), *options(named)]
            assert main(["ask", *given, "--max-new-tokens", "4", "--json"]) == 0
            answer = json.loads(capsys.readouterr().out)
            found.append((answer["answer"], answer["citations"]))
        assert found[0] == found[1]
    command = ["serve", "--memory", str(parts), *options(named), "--port", str(port)]
    more = ["--ray", cluster.address, "--replicas", "2", "--cpus", "0.5"]
    process = spawned([*command, *more])
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("serving ")
        client = client_of(f"http://127.0.0.1:{port}")
        with served(ServerConfig.of(memory=one), own_llm) as address:
            here = client_of(address)
            for question in QUESTIONS:
                assert told(asked(client, question)) == told(asked(here, question))
        id = read(client, "vs_main", GARDEN, "garden.txt")  # into a part
        hits = client.vector_stores.search("vs_main", query="What did Odile grow?").data
        assert id in {hit.file_id for hit in hits}
        client.files.delete(id)
        hits = client.vector_stores.search("vs_main", query="What did Odile grow?").data
        assert id not in {hit.file_id for hit in hits}
        process.send_signal(signal.SIGTERM)
        assert process.wait(LONG_S) == 0
        assert not answers(port)
    finally:
        end(process)


def test_a_signal_while_it_starts_takes_down_what_there_is(
    memories: list[Path], named: dict[str, Any], cluster: Any, port: int
) -> None:
    from ray import serve

    command = ["serve", "--memory", str(memories[1]), *options(named), "--port", str(port)]
    process = spawned([*command, "--ray", cluster.address, "--cpus", "0.5"])
    try:
        within(lambda: "sharedllm" in serve.status().applications or process.poll() is not None)
        process.send_signal(signal.SIGTERM)
        assert process.wait(LONG_S) == 130
        assert not answers(port)
    finally:
        end(process)


def spawned(command: list[str]) -> subprocess.Popen[str]:
    """The process of a command."""
    whole = [sys.executable, "-u", "-m", "sharedllm", *command]
    return subprocess.Popen(whole, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=LONG_S).status_code == 200
    except httpx.TransportError:
        return False


def asked(client: openai.OpenAI, question: str) -> Any:
    messages: Any = [{"role": "user", "content": question}]
    return client.chat.completions.create(
        model=model_of(client), messages=messages, max_tokens=8, temperature=0
    )
