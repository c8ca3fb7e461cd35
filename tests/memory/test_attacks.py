"""Attacks on a memory lose nothing, and are refused by name: see attacks.py for the long run."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sharedllm import SharedLLM
from sharedllm.errors import TreeMemoryFormatError
from tests.memory.attacks import (
    KEYS,
    SCHEMAS,
    Attack,
    Attacker,
    bombs,
    forgeries,
    manifests,
    opened,
    raw_flips,
    schemas,
    things,
)

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="pipes, links and devices"),
    pytest.mark.timeout(120),
]


@pytest.fixture(scope="module")
def attacker(llm: SharedLLM, tmp_path_factory: pytest.TempPathFactory) -> Attacker:
    return Attacker(tmp_path_factory.mktemp("attacks"), llm)


def some(attacks: Iterator[Attack], count: int) -> list[Attack]:
    """A few of them, the same ones in every run."""
    every = list(attacks)
    return random.Random(4).sample(every, min(count, len(every)))


@pytest.mark.parametrize("table", KEYS)
def test_a_forged_value_is_refused(attacker: Attacker, table: str) -> None:
    """Its checksum says that it is right."""
    for attack in some(forgeries(attacker.sound, table, random.Random(table)), 2):
        attacker.check(attack, honest=False)


def test_flipped_bits_anywhere_in_the_file(attacker: Attacker) -> None:
    draw = random.Random(9)
    for _ in range(12):
        attacker.check(raw_flips(draw), honest=True)


def test_what_stands_in_the_place_of_files(attacker: Attacker) -> None:
    for attack in some(things(attacker.outside), 12):
        attacker.check(attack, honest=False)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_strangers_sql_is_refused_before_it_runs(attacker: Attacker, name: str) -> None:
    attacker.check((name, dict(schemas())[name]), honest=False)
    with pytest.raises(TreeMemoryFormatError, match="another program has changed the file"):
        opened(attacker.folder, attacker.llm)


def test_a_strangers_manifest(attacker: Attacker) -> None:
    for attack in some(manifests(attacker.sound), 8):
        attacker.check(attack, honest=False)


def test_a_bomb_is_not_inflated(attacker: Attacker) -> None:
    found = dict(bombs(attacker.sound))
    for name in (f"a text that says {1 << 60}", f"{1 << 28} tokens"):
        attacker.check((name, found[name]), honest=False)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_attacks_for_long(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.memory.attacks", str(tmp_path), "500", "11"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])["attacks"] > 100
