"""A fork loses no write: connections close before it, and a child that has one is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sharedllm import TreeMemory

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")

START = """
import ctypes, json, multiprocessing, os, sys, threading
from sharedllm import TreeMemory
from sharedllm.errors import TreeMemoryError


def refused(use):
    try:
        use()
    except TreeMemoryError as error:
        return "was in use when this process was forked" in str(error)
    return False


def code_of(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


for name, source in json.loads(sys.argv[2]).items():
    path = os.path.join(sys.argv[1], name)
    memory = TreeMemory(path)
    assert len(memory) == 3
    names = {**globals()}
    exec(source, names)
    if names["code"]:
        sys.exit(f"{name}: {names['code']}")
    memory.close()
"""
# the child has used the memory, the parent closes it, the child writes
LAST_WRITE = """
used, closed = os.pipe(), os.pipe()
child = os.fork()
if not child:
    assert len(memory) == 3
    os.write(used[1], b"x")
    os.read(closed[0], 1)
    memory.delete("story")
    os._exit(0)
os.read(used[0], 1)
memory.close()
os.write(closed[1], b"x")
code = code_of(child)
"""
AT_ONCE = """
child = os.fork()
if not child:
    memory.delete("story")
    os._exit(len(memory) - 2)
code = code_of(child)
"""
THREADS = """
going = threading.Event()
def reads():
    while not going.is_set():
        len(memory)
threads = [threading.Thread(target=reads) for _ in range(3)]
for thread in threads: thread.start()
children = []
for number in range(8):
    child = os.fork()
    if not child:
        if number == 4: memory.delete("story")
        os._exit(len(memory) not in (2, 3))
    children.append(child)
code = max(map(code_of, children))
going.set()
for thread in threads: thread.join()
"""
POOL = """
child = multiprocessing.get_context("fork").Process(target=memory.delete, args=("story",))
child.start()
child.join()
code = child.exitcode
assert len(memory) == 2
"""
# SQLite believes to hold the parent's locks: a connection of the child's own would have none
INSIDE = """
with memory._database.read():
    child = os.fork()
    if not child:
        os._exit(0 if refused(lambda: TreeMemory(path)) else 1)
    code = code_of(child)
assert len(memory) == 3
"""
BY_C = """
child = ctypes.PyDLL(None).fork()  # as servers do that are written in C
if not child:
    uses = (lambda: len(memory), lambda: memory.delete("story"), lambda: TreeMemory(path))
    done = all(map(refused, uses))
    memory.close()
    os._exit(0 if done else 1)
code = code_of(child)
"""


CASES = {  # with the documents that are left
    "last write": (LAST_WRITE, 2),
    "at once": (AT_ONCE, 2),
    "threads": (THREADS, 2),
    "multiprocessing": (POOL, 2),
    "inside of a read": (INSIDE, 3),
    "by C": (BY_C, 3),
}


def test_a_fork_loses_no_write(memory: TreeMemory, tmp_path: Path) -> None:
    memory.close()
    for name in CASES:
        shutil.copytree(memory.path, tmp_path / "cases" / name)
    sources = json.dumps({name: source for name, (source, _) in CASES.items()})
    command = [sys.executable, "-c", START, str(tmp_path / "cases"), sources]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    for name, (_, left) in CASES.items():
        with TreeMemory(tmp_path / "cases" / name) as after:
            assert len(after) == left, name
            assert after.verify().clean, name
