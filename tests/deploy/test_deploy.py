"""What deploy/ starts: files that are there, commands that the command line takes."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from sharedllm_integrations.serving import ServerConfig
from tests.docs.blocks import ROOT, parsed

DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
UNIT = (DEPLOY / "sharedllm.service").read_text(encoding="utf-8")


def test_the_container_copies_what_is_there_and_all_that_the_package_needs() -> None:
    copied = [
        words for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.M) for words in line.split()
    ]
    sources = {one for one in copied if one != "./"}
    assert all((ROOT / one).exists() for one in sources)
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert {f"!{one}" for one in sources} == {one for one in ignored if one.startswith("!")}
    assert {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "sharedllm",
        "sharedllm_integrations",
    } <= sources


def test_the_container_serves() -> None:
    [entry] = re.findall(r"^ENTRYPOINT (.+)$", DOCKERFILE, re.M)
    [command] = re.findall(r"^CMD (.+)$", DOCKERFILE, re.M)
    assert json.loads(entry) == ["sharedllm"]
    words = json.loads(command)
    parsed(words)
    given = dict(zip(words[1::2], words[2::2], strict=True))
    ServerConfig.of(memory=given["--memory"], keys=given["--keys"], host=given["--host"])
    users = re.findall(r"^USER (.+)$", DOCKERFILE, re.M)
    assert users == ["sharedllm"]
    assert DOCKERFILE.index("USER sharedllm") < DOCKERFILE.index("ENTRYPOINT")


def test_the_unit_starts_the_server() -> None:
    [line] = re.findall(r"^ExecStart=(.+)$", UNIT, re.M)
    program, *words = shlex.split(line)
    assert program.endswith("/bin/sharedllm")
    parsed(words)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not here")
def test_systemd_knows_all_that_the_unit_says(tmp_path: Path) -> None:
    unit = UNIT.replace("/opt/sharedllm/bin/sharedllm serve", "/bin/true serve")
    (tmp_path / "sharedllm.service").write_text(unit)
    command = ["systemd-analyze", "verify", str(tmp_path / "sharedllm.service")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    lines = [line for line in done.stderr.splitlines() if "sharedllm.service" in line]
    assert (done.returncode, lines) == (0, [])


def test_the_proxy_holds_nothing_back() -> None:
    text = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
    assert "proxy_buffering off;" in text
    [most] = re.findall(r"client_max_body_size (\d+)m;", text)
    assert int(most) << 20 > ServerConfig.of(memory="m").max_upload
    [longest] = re.findall(r"proxy_read_timeout (\d+)s;", text)
    assert int(longest) > ServerConfig.of(memory="m").timeout
