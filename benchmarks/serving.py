"""A server under load: waiting times, throughput, tenants, uploads, memory, and while it reads.

    python -m benchmarks.serving --out benchmarks/results/serving.json
    python -m benchmarks.serving --quick --out serving.json

``sharedllm serve`` runs in a process of its own on loopback; the clients are here. Every tenant has
documents of the same names; each holds a password that no other document holds, so that an answer
which shows another tenant's is found. The parts:

``throughput``
    The same questions from one client, and from several at once.
``load``
    Questions of many clients, mixed with uploads, deletions and searches: waiting times to the
    first token and to the end, passwords of others, lost uploads, the memory of the process.
``ingest``
    One client asks while a book is read, and while none is.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import torch

from sharedllm import __version__
from sharedllm.evaluation.run import hardware
from sharedllm_integrations.serving import add_key

NOVELS = sorted(Path("cookbooks/data").glob("*.txt"))
PASSWORD = re.compile(r"[A-Z]{6}-[0-9]{4}")
PACKAGES = ("torch", "transformers", "fastapi", "uvicorn", "httpx")
SHARES = {"ask": 0.84, "search": 0.06, "upload": 0.06, "delete": 0.04}
START_S, READ_S = 300, 1800  # seconds that the start, and the reading of all documents, may take
ANSWER_S = 300
LOAD_S = 1800  # after which no further question is asked


@dataclass
class Tenant:
    """A tenant's client, what it uploaded, and which passwords are its own."""

    name: str
    http: httpx.AsyncClient
    model: str
    passwords: dict[str, str] = field(default_factory=dict)  # of cellars that are asked about
    secrets: set[str] = field(default_factory=set)  # all of its passwords
    files: dict[str, str] = field(default_factory=dict)  # acknowledged, of the load
    deleted: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Answered:
    """One answer: seconds to its first text and to its end, and what it showed."""

    first_s: float
    whole_s: float
    text: str
    shown: frozenset[str]  # passwords in all that the server sent


# -- the server ------------------------------------------------------------------------------------


@contextlib.contextmanager
def served(folder: Path, keys: Path, options: Sequence[str]) -> Iterator[tuple[int, str]]:
    """The process of a server, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "sharedllm", "serve", "--memory", str(folder)]
    command += ["--keys", str(keys), "--port", str(port), *options]
    process = subprocess.Popen(command)
    try:
        address = f"http://127.0.0.1:{port}"
        end = time.monotonic() + START_S
        while not _is_ready(address):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the server did not start; its messages stand above")
            time.sleep(0.2)
        yield process.pid, address
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_ready(address: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{address}/ready").status_code == 200
    return False


def resident_mib(pid: int) -> float:
    """MiB of memory that a process holds (Linux)."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


# -- what clients do -------------------------------------------------------------------------------


async def asked(tenant: Tenant, question: str, tokens: int, counts: Counter[str]) -> Answered:
    """The answer to a question, streamed."""
    body = {
        "model": tenant.model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": tokens,
        "stream": True,
    }
    while True:
        started, first, text, shown = time.monotonic(), None, "", set[str]()
        async with tenant.http.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code == 429:
                counts["refused"] += 1
                await response.aread()
                await asyncio.sleep(float(response.headers["retry-after"]))
                continue
            response.raise_for_status()
            async for line in response.aiter_lines():
                shown |= set(PASSWORD.findall(line))
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    raise RuntimeError(event["error"]["message"])
                piece = event["choices"][0]["delta"].get("content") if event["choices"] else ""
                if piece and first is None:
                    first = time.monotonic() - started
                text += piece or ""
        whole = time.monotonic() - started
        shown |= set(PASSWORD.findall(text))
        return Answered(whole if first is None else first, whole, text, frozenset(shown))


async def uploaded(tenant: Tenant, text: str, store: str = "vs_main") -> str:
    """Upload a text and have it read; its id, once both are acknowledged."""
    file = {"file": ("cellar.txt", text.encode(), "text/plain")}
    made = await tenant.http.post("/v1/files", files=file, data={"purpose": "assistants"})
    made.raise_for_status()
    id = str(made.json()["id"])
    added = await tenant.http.post(f"/v1/vector_stores/{store}/files", json={"file_id": id})
    added.raise_for_status()
    return id


async def status_of(tenant: Tenant, id: str, store: str = "vs_main") -> str:
    """The status of a file in a vector store; "gone" if it is not there."""
    found = await tenant.http.get(f"/v1/vector_stores/{store}/files/{id}")
    return "gone" if found.status_code == 404 else str(found.json()["status"])


async def all_read(tenant: Tenant, ids: Sequence[str], store: str = "vs_main") -> Counter[str]:
    """The statuses of files once none is in progress."""
    end = time.monotonic() + READ_S
    while True:
        states = Counter([await status_of(tenant, id, store) for id in ids])
        if not states["in_progress"] or time.monotonic() > end:
            return states
        await asyncio.sleep(0.5)


# -- documents -------------------------------------------------------------------------------------


def password(own: random.Random) -> str:
    """A password that nobody else has."""
    letters = "".join(own.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(6))
    return f"{letters}-{own.randrange(1000, 10_000)}"


def document(own: random.Random, cellar: str, secret: str, characters: int) -> str:
    """A slice of a novel in which the password of a cellar stands."""
    novel = own.choice(NOVELS).read_text(encoding="utf-8")
    at = own.randrange(max(1, len(novel) - characters))
    paragraphs = novel[at : at + characters].split("\n\n")
    paragraphs.insert(
        own.randrange(1, max(2, len(paragraphs))), f"The password of {cellar} is {secret}."
    )
    return f"About {cellar}\n\n" + "\n\n".join(paragraphs)


def book(own: random.Random, characters: int) -> str:
    """A text no chunk of which was read before."""
    text = ""
    while len(text) < characters:
        for novel in NOVELS:
            paragraphs = novel.read_text(encoding="utf-8").split("\n\n")
            text += "\n\n".join(f"{own.randrange(10**6)} {one}" for one in paragraphs)
    return text[:characters]


@contextlib.asynccontextmanager
async def tenants_of(address: str, keys: dict[str, str]) -> AsyncIterator[list[Tenant]]:
    """The tenants, each with a client of its own."""
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for name, key in keys.items():
            client = httpx.AsyncClient(
                base_url=address,
                headers={"authorization": f"Bearer {key}"},
                timeout=ANSWER_S,
                limits=httpx.Limits(max_connections=None),
            )
            await stack.enter_async_context(client)
            [model] = (await client.get("/v1/models")).json()["data"]
            made.append(Tenant(name, client, model["id"]))
        yield made


async def filled(tenants: Sequence[Tenant], args: argparse.Namespace) -> dict[str, Any]:
    """Give every tenant its documents; seconds until all are read."""
    own, started = random.Random(args.seed), time.monotonic()
    ids: dict[str, list[str]] = {tenant.name: [] for tenant in tenants}
    for number in range(args.documents):
        tenant = tenants[number % len(tenants)]
        cellar = f"cellar {number // len(tenants) + 1}"
        tenant.passwords[cellar] = password(own)
        tenant.secrets.add(tenant.passwords[cellar])
        text = document(own, cellar, tenant.passwords[cellar], args.characters)
        ids[tenant.name].append(await uploaded(tenant, text))
    states = Counter[str]()
    for tenant in tenants:
        states += await all_read(tenant, ids[tenant.name])
    took = time.monotonic() - started
    return {"documents": args.documents, "seconds": round(took, 2), "states": dict(states)}


# -- parts -----------------------------------------------------------------------------------------


def seconds_of(values: Sequence[float]) -> dict[str, float]:
    """The middle and the slow ends of waiting times."""
    if len(values) < 2:
        return {"n": len(values)}
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {
        "n": len(values),
        "p50": round(cuts[49], 4),
        "p95": round(cuts[94], 4),
        "p99": round(cuts[98], 4),
    }


def question(own: random.Random, tenant: Tenant) -> tuple[str, str]:
    """A question about one of a tenant's cellars, and the password that answers it."""
    cellar = own.choice(sorted(tenant.passwords))
    return f"What is the password of {cellar}?", tenant.passwords[cellar]


async def throughput(tenants: Sequence[Tenant], args: argparse.Namespace) -> dict[str, Any]:
    """Questions a second of one client and of several, after both have been warmed up."""
    own, counts, rows = random.Random(args.seed + 1), Counter[str](), {}
    wanted = [
        (tenant, question(own, tenant)[0])
        for tenant in (own.choice(tenants) for _ in range(args.throughput_questions))
    ]
    for clients in (args.throughput_clients, 1, args.throughput_clients):
        left = iter(wanted)

        async def work(left: Iterator[tuple[Tenant, str]] = left) -> list[Answered]:
            return [await asked(*one, args.max_tokens, counts) for one in left]

        started = time.monotonic()
        parts = await asyncio.gather(*(work() for _ in range(clients)))
        answers = [one for part in parts for one in part]
        took = time.monotonic() - started
        rows[clients] = {
            "clients": clients,
            "questions_s": round(len(answers) / took, 3),
            "first_s": seconds_of([one.first_s for one in answers]),
            "answer_s": seconds_of([one.whole_s for one in answers]),
        }
    alone, together = rows[1], rows[args.throughput_clients]
    ratio = together["questions_s"] / alone["questions_s"]
    return {"alone": alone, "together": together, "ratio": round(ratio, 2)}


class Load:
    """Many clients at once, and what came of it."""

    def __init__(self, tenants: Sequence[Tenant], args: argparse.Namespace) -> None:
        self._tenants, self._args = tenants, args
        self._left = args.questions
        self._until = time.monotonic() + LOAD_S
        self.counts = Counter[str]()
        self.answers: list[Answered] = []
        self.searches: list[float] = []

    async def run(self) -> float:
        """Seconds until all questions are answered."""
        started = time.monotonic()
        await asyncio.gather(*(self._client(number) for number in range(self._args.clients)))
        return time.monotonic() - started

    async def _client(self, number: int) -> None:
        own = random.Random(f"{self._args.seed} client {number}")
        tenant = self._tenants[number % len(self._tenants)]
        while self._left > 0 and time.monotonic() < self._until:
            [work] = own.choices(list(SHARES), list(SHARES.values()))
            try:
                await getattr(self, f"_{work}")(tenant, own)
            except (httpx.HTTPError, RuntimeError) as error:
                self.counts["failed"] += 1
                print(f"{work}: {error}", file=sys.stderr, flush=True)

    async def _ask(self, tenant: Tenant, own: random.Random) -> None:
        self._left -= 1
        text, right = question(own, tenant)
        answer = await asked(tenant, text, self._args.max_tokens, self.counts)
        self.answers.append(answer)
        self.counts["right"] += right in answer.text
        self.counts["found"] += right in answer.shown
        self._note_shown(tenant, answer.shown)

    async def _search(self, tenant: Tenant, own: random.Random) -> None:
        text, _ = question(own, tenant)
        started = time.monotonic()
        found = await tenant.http.post("/v1/vector_stores/vs_main/search", json={"query": text})
        found.raise_for_status()
        self.searches.append(time.monotonic() - started)
        self._note_shown(tenant, frozenset(PASSWORD.findall(found.text)))

    async def _upload(self, tenant: Tenant, own: random.Random) -> None:
        cellar, secret = f"vault {own.randrange(10**6)}", password(own)
        text = document(own, cellar, secret, self._args.characters // 4)
        tenant.secrets.add(secret)
        tenant.files[await uploaded(tenant, text)] = text
        self.counts["uploads"] += 1

    async def _delete(self, tenant: Tenant, own: random.Random) -> None:
        left = sorted(tenant.files.keys() - tenant.deleted)
        if not left:
            return
        id = own.choice(left)
        tenant.deleted.add(id)
        gone = await tenant.http.delete(f"/v1/files/{id}")
        gone.raise_for_status()
        self.counts["deletions"] += 1

    def _note_shown(self, tenant: Tenant, shown: frozenset[str]) -> None:
        others = set[str]().union(*(one.secrets for one in self._tenants if one is not tenant))
        self.counts["of_another_tenant"] += bool(shown & others)
        self.counts["passwords_shown"] += len(shown)


async def lost_uploads(tenants: Sequence[Tenant]) -> dict[str, int]:
    """What became of the load's uploads: those kept are to be read and whole, the others gone."""
    lost = wrong = there = 0
    for tenant in tenants:
        kept = [id for id in tenant.files if id not in tenant.deleted]
        states = await all_read(tenant, kept)
        lost += len(kept) - states["completed"]
        for id in kept:
            content = await tenant.http.get(f"/v1/files/{id}/content")
            wrong += content.content != tenant.files[id].encode()
        there += sum([await status_of(tenant, id) != "gone" for id in tenant.deleted])
    return {"lost": lost, "changed": wrong, "deleted_but_there": there}


async def sampled(pid: int, every_s: float, samples: list[float]) -> None:
    """Note the memory of a process again and again, until this is cancelled."""
    while True:
        samples.append(round(resident_mib(pid), 1))
        await asyncio.sleep(every_s)


def growth(samples: Sequence[float]) -> dict[str, Any]:
    """The memory at the start and at the end of a load, as means of quarters."""
    quarter = max(1, len(samples) // 4)
    second, last = samples[quarter : 2 * quarter] or samples, samples[-quarter:]
    before, after = statistics.fmean(second), statistics.fmean(last)
    return {
        "first_mib": samples[0],
        "second_quarter_mib": round(before, 1),
        "last_quarter_mib": round(after, 1),
        "most_mib": max(samples),
        "growth": round(after / before - 1, 4),
        "samples": len(samples),
    }


async def loaded(pid: int, tenants: Sequence[Tenant], args: argparse.Namespace) -> dict[str, Any]:
    """The part ``load``."""
    load, samples = Load(tenants, args), list[float]()
    watching = asyncio.ensure_future(sampled(pid, 1.0, samples))
    try:
        took = await load.run()
    finally:
        watching.cancel()
    asked_in_all = len(load.answers)
    return {
        "clients": args.clients,
        "questions": asked_in_all,
        "seconds": round(took, 2),
        "questions_s": round(asked_in_all / took, 3),
        "first_s": seconds_of([one.first_s for one in load.answers]),
        "answer_s": seconds_of([one.whole_s for one in load.answers]),
        "search_s": seconds_of(load.searches),
        "counts": dict(load.counts),
        "right": round(load.counts["right"] / asked_in_all, 3),
        "evidence_found": round(load.counts["found"] / asked_in_all, 3),
        "uploads": await lost_uploads(tenants),
        "memory": growth(samples),
    }


async def while_reading(tenant: Tenant, args: argparse.Namespace) -> dict[str, Any]:
    """The part ``ingest``: the book goes into a vector store that no question reads."""
    own, counts = random.Random(args.seed + 2), Counter[str]()

    async def ask() -> Answered:
        return await asked(tenant, question(own, tenant)[0], args.max_tokens, counts)

    await ask()
    alone = [await ask() for _ in range(args.ingest_questions)]
    store = (await tenant.http.post("/v1/vector_stores", json={"name": "book"})).json()["id"]
    text = book(random.Random(args.seed + 3), args.book_characters)
    started = time.monotonic()
    id = await uploaded(tenant, text, store)
    during: list[Answered] = []
    while len(during) < args.ingest_questions:
        answer = await ask()
        if await status_of(tenant, id, store) != "in_progress":
            break
        during.append(answer)
    states = await all_read(tenant, [id], store)
    took = time.monotonic() - started
    rows: dict[str, Any] = {
        "book_characters": len(text),
        "book_s": round(took, 2),
        "book": dict(states),
    }
    for name in ("first_s", "whole_s"):
        told = {
            kind: seconds_of([getattr(one, name) for one in answers])
            for kind, answers in (("alone", alone), ("while_reading", during))
        }
        if "p50" in told["while_reading"]:
            told["ratio"] = round(told["while_reading"]["p50"] / told["alone"]["p50"], 2)
        rows[name] = told
    return rows


# -- the command -----------------------------------------------------------------------------------


async def measured(pid: int, address: str, keys: dict[str, str], args: Any) -> dict[str, Any]:
    """All parts, one after the other."""
    async with tenants_of(address, keys) as tenants:
        rows: dict[str, Any] = {"filling": await filled(tenants, args)}
        said("filling", rows["filling"])
        for name, part in (
            ("throughput", lambda: throughput(tenants, args)),
            ("ingest", lambda: while_reading(tenants[0], args)),
            ("load", lambda: loaded(pid, tenants, args)),
        ):
            if name in args.parts:
                rows[name] = await part()
                said(name, rows[name])
        return rows


def said(name: str, row: dict[str, Any]) -> None:
    print(json.dumps({name: row}), flush=True)


def parsed(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments; --quick changes what is not given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    full = {
        "clients": 50,
        "questions": 1000,
        "documents": 100,
        "tenants": 4,
        "characters": 20_000,
        "throughput_clients": 16,
        "throughput_questions": 128,
        "ingest_questions": 50,
        "book_characters": 8_000_000,
        "max_tokens": 32,
    }
    quick = {
        "clients": 8,
        "questions": 40,
        "documents": 8,
        "tenants": 2,
        "characters": 6_000,
        "throughput_questions": 16,
        "ingest_questions": 6,
        "book_characters": 600_000,
        "max_tokens": 12,
    }
    for name in full:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int)
    parser.add_argument("--parts", nargs="+", default=["throughput", "ingest", "load"])
    parser.add_argument("--quick", action="store_true", help="a few minutes on a CPU")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--serve", nargs=argparse.REMAINDER, default=[], help="options of serve")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    for name, value in {**full, **(quick if args.quick else {})}.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def main() -> None:
    args = parsed()
    with tempfile.TemporaryDirectory(prefix="sharedllm-serving-") as scratch:
        folder, keys = Path(scratch) / "tenants", Path(scratch) / "keys.json"
        names = {f"t{number}": add_key(keys, f"t{number}") for number in range(args.tenants)}
        options = ["--max-waiting", str(2 * args.clients), *args.serve]
        with served(folder, keys, options) as (pid, address):
            rows = asyncio.run(measured(pid, address, names, args))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    told = {
        **rows,
        "settings": {k: v for k, v in vars(args).items() if k != "out"},
        "hardware": hardware(device),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {"sharedllm": __version__, **{name: version(name) for name in PACKAGES}},
        "date": time.strftime("%Y-%m-%d"),
    }
    if args.out:
        args.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
