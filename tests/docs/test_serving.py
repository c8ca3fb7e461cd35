"""The programs of README and of "Serve a team", against a server on loopback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sharedllm import SharedLLM, open_memory
from sharedllm_integrations.serving import ServerConfig
from tests.conftest import DOCUMENTS
from tests.docs.blocks import ROOT, blocks
from tests.integrations.serving.conftest import served
from tests.text import samples

ADDRESS = "http://127.0.0.1:8000"


@pytest.mark.parametrize("page", ["README.md", "docs/howto/serve.md"])
def test_programs_talk_to_the_server(
    page: str,
    llm: SharedLLM,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("report.pdf").write_bytes(samples.pdf("The harbour wall is to be raised."))
    open_memory(tmp_path / "memory", llm=llm, create=True).add(DOCUMENTS)
    found = [one for one in blocks(ROOT / page, "python") if one.reason == "needs the server"]
    assert found
    names: dict[str, Any] = {}
    with served(ServerConfig.of(memory=tmp_path / "memory"), llm) as address:
        for block in found:
            assert ADDRESS in block.code or names
            exec(compile(block.code.replace(ADDRESS, address), str(block), "exec"), names)
    assert names["answer"].sharedllm["citations"]
    assert capsys.readouterr().out.strip()
    if "hits" in names:
        assert "harbour wall" in names["hits"][0].content[0].text
