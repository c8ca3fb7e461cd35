"""Kills writers of a memory at random points and looks at what is left.

Run as a program, with a folder, what the memory keeps, a number of kills and a seed; prints one
JSON object. The model is
loaded once; every writer is a fork that is killed either between two lines of sharedllm/memory,
drawn evenly from all that the operation runs, or after a random time (within a call of SQLite,
say).
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from sharedllm import MemoryDocument, SharedLLM, TreeMemory
from tests.models import shared

WORDS = "lamp reef tide rope mast keel fog bell dawn gull salt oar net star wind".split()
OPERATIONS = ("add", "update", "delete", "compact")
PACKAGE = f"{os.sep}sharedllm{os.sep}memory{os.sep}"
OPTIONS: dict[str, Any] = {"max_new_tokens": 2, "budget": 100}

State = dict[str, MemoryDocument]


def main() -> None:
    folder, keep, kills, seed = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
    torch.set_num_threads(1)  # a fork has no other threads
    llm = shared("llama", sizes={"max_position_embeddings": 8192})
    sys.stdout.write(json.dumps(Crasher(llm, folder, keep, seed).run(kills)))


class Crasher:
    """Keeps beside the memory a plain dict of what must be in it."""

    def __init__(self, llm: SharedLLM, folder: Path, keep: str, seed: int) -> None:
        self.llm, self.folder, self.random = llm, folder, random.Random(seed)
        self.keep = keep
        self.reads = {"leaves": "kv"} if keep == "leaves" else {"coarse": "all"}
        self.state: State = {}
        self.made = 0
        self.counts: Counter[str] = Counter()
        self.lines: dict[str, int] = {}  # the most that an operation ran when nobody killed it
        with self.open() as memory:
            memory.add([self.document() for _ in range(4)])
            self.state = {d.id: memory.get(d.id) for d in memory.list()}

    def open(self) -> TreeMemory:
        return TreeMemory(self.folder, llm=self.llm, keep=self.keep, vectors="exact", busy_s=5)

    def document(self, id: str = "") -> MemoryDocument:
        self.made += 1
        length = self.random.choice((3, 30, 60))
        text = " ".join(self.random.choice(WORDS) for _ in range(length))
        return MemoryDocument(id=id or f"../{self.made}", text=text, metadata={"made": self.made})

    def run(self, kills: int) -> dict[str, Any]:
        while sum(n for name, n in self.counts.items() if name.startswith("killed")) < kills:
            name = self.random.choice(OPERATIONS)
            if len(self.state) > 8:
                name = "delete"
            elif len(self.state) < 3 and name == "delete":
                name = "add"
            work, allowed = getattr(self, name)()
            killed = self.crash(name, work)
            self.counts[f"{'killed' if killed else 'finished'} {name}"] += 1
            self.look(name, allowed)
        return {"counts": self.counts, "lines": self.lines}

    def crash(self, name: str, work: Callable[[TreeMemory], None]) -> bool:
        """Run `work` in a fork; whether it was killed."""
        by_line = self.random.random() < 0.75 or name not in self.lines
        line = self.random.randint(1, self.lines[name]) if name in self.lines else None
        reading, writing = os.pipe()
        started = time.monotonic()
        child = os.fork()
        if not child:
            self.work(work, line if by_line else None, writing)
        os.close(writing)
        if not by_line:
            time.sleep(self.random.uniform(0, 0.06))
            os.kill(child, signal.SIGKILL)
        with os.fdopen(reading) as pipe:
            said = pipe.read()
        status = os.waitpid(child, 0)[1]
        if said.isdigit():
            self.lines[name] = max(self.lines.get(name, 0), int(said))
        elif said:
            raise SystemExit(f"{name} failed: {said}")
        if time.monotonic() - started > 10:
            raise SystemExit(f"{name} took {time.monotonic() - started:.0f} s")
        return os.WIFSIGNALED(status)

    def work(self, work: Callable[[TreeMemory], None], line: int | None, out: int) -> None:
        """What the fork does; it never returns."""
        ran = 0

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal ran
            if PACKAGE not in frame.f_code.co_filename:
                return None
            if event == "line":
                ran += 1
                if ran == line:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        try:
            threading.settrace(trace)
            sys.settrace(trace)
            with self.open() as memory:
                work(memory)
            sys.settrace(None)
            os.write(out, str(ran).encode())
        except BaseException as error:
            os.write(out, f"{type(error).__name__}: {error}".encode())
        os._exit(0)

    # Each gives what the fork does, and the states that it may leave.

    def add(self) -> tuple[Callable[[TreeMemory], None], list[State]]:
        new = [self.document(), self.document()]
        some = {**self.state, new[0].id: new[0]}
        return lambda m: m.add(new), [self.state, some, {**some, new[1].id: new[1]}]

    def update(self) -> tuple[Callable[[TreeMemory], None], list[State]]:
        old = self.state[self.random.choice(sorted(self.state))]
        new = self.document(old.id)
        if self.random.random() < 0.5:
            new = MemoryDocument(id=old.id, text=old.text + " " + new.text)
        return lambda m: m.update(new), [self.state, {**self.state, old.id: new}]

    def delete(self) -> tuple[Callable[[TreeMemory], None], list[State]]:
        gone = self.random.sample(sorted(self.state), 2)
        left = {id: d for id, d in self.state.items() if id not in gone}
        return lambda m: m.delete(gone), [self.state, left]

    def compact(self) -> tuple[Callable[[TreeMemory], None], list[State]]:
        return lambda m: m.compact(), [self.state]

    def look(self, name: str, allowed: list[State]) -> None:
        """Stop unless the memory is whole and holds one of the `allowed` states."""
        with self.open() as memory:
            report = memory.verify()
            if not report.clean:
                raise SystemExit(f"{name} left {report.problems}")
            now = {d.id: memory.get(d.id) for d in memory.list()}
            if now not in allowed:
                raise SystemExit(f"{name} left {sorted(now)}, not {list(map(sorted, allowed))}")
            self.state = now
            for stored in memory.documents_for("the lamp", self.llm):
                fresh = self.llm.remember(stored.text)
                if (fresh.tokens.ids != stored.tokens.ids).any():
                    raise SystemExit(f"{name} changed the tokens of {stored.id}")
                # rounded differently by another batch: bfloat16 products on some CPUs
                if not torch.allclose(fresh.vectors, stored.vectors, atol=0.03):
                    raise SystemExit(f"{name} changed the states of {stored.id}")
            self.llm.answer("What is on the reef?", memory, **self.reads, **OPTIONS)


if __name__ == "__main__":
    main()
