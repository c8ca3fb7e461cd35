"""Writers that are killed leave a whole memory: what was committed, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.parametrize(
    ("keep", "kills", "seed"),
    [
        ("coarse", 12, 1),
        ("leaves", 12, 3),
        pytest.param("coarse", 240, 2, marks=[pytest.mark.slow]),
    ],
)
def test_killed_writers_leave_a_whole_memory(
    tmp_path: Path, keep: str, kills: int, seed: int
) -> None:
    given = [str(tmp_path / "m"), keep, str(kills), str(seed)]
    command = [sys.executable, "-m", "tests.memory.crashing", *given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    counts = json.loads(done.stdout)["counts"]
    killed = {name: n for name, n in counts.items() if name.startswith("killed")}
    assert sum(killed.values()) >= kills
    if kills >= 200:  # every operation many times
        assert len(killed) == 4
        assert min(killed.values()) >= 20
