"""Reading and questions on Ray beside one process, and one memory beside the same in parts.

    python -m benchmarks.ray_scale --actors 1 2 4 --folder SCRATCH --out FILE.json
    python -m benchmarks.ray_scale --parts 8 --documents 10000 --folder SCRATCH --out FILE.json

On 16 to 32 cores: `--actors 1 2 4 8 16 --documents 2000`; each actor has `--threads` threads. On
two GPUs: `--device cuda --gpus 1 --actors 1 2`, or `--gpus 0.5 --actors 1 2 4`; more actors than
the GPUs hold are refused. Needs the extras `bench` and `ray`, and a model: the default one, one in
a folder (`--model DIR`), or `--model tiny`, of random weights, which shows Ray's own limits.

`--actors`: files are read by one process (`sharedllm index`) with `--threads` threads and with
those of all cores, and by that many actors (`sharedllm index --ray`); then questions are asked in
one process, and of as many actors. Every row is a run in fresh processes, Ray's included. Start-up
(imports, Ray, the model) ends when the first documents are stored; the rate is that of the tokens
after the first quarter. An actor that asks has the whole memory open.

`--parts`: one memory is divided into that many, and both are asked the same: are the documents,
places and scores of the best `--k` passages equal? Seconds of the search, and of its prefilter.
With `--searchers N` they are asked a third time, of so many actors that each own some parts.

Documents have `--tokens` tokens, and are made of the sentences of the shipped novels, with one fact
each that a question asks for; or they are those of a corpus of `benchmarks.quality.corpus`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.cpu import hardware
from benchmarks.quality.items import Item, facts

NOVELS = Path(__file__).parents[1] / "cookbooks" / "data"
TINY = "tiny"
AT_ONCE = 250  # documents that one add() is given
SETTLED = 0.25  # of the tokens, after which the rate is measured
OBJECT_STORE = 200 << 20  # bytes; documents are small, and Ray would take a third of the memory
PACKAGES = ("ray", "torch", "transformers")
STARTED = "RAY_SCALE_STARTED"  # when the process was begun, for what it takes to import


@dataclass(frozen=True)
class Given:
    """A document, and the question that it answers."""

    id: str
    text: str
    question: str | None


# -- documents -------------------------------------------------------------------------------------


def made(documents: int, tokens: int, seed: int) -> list[Given]:
    """Documents of sentences of the shipped novels in random order, with a fact each."""
    rng = random.Random(seed)
    sentences = list(
        dict.fromkeys(
            sentence
            for path in sorted(NOVELS.glob("*.txt"))
            for sentence in re.split(
                r"(?<=[.!?])\s+", " ".join(path.read_text(encoding="utf-8").split())
            )
        )
    )
    items: list[Item | None] = list(
        {item.question: item for item in facts("literal", 2 * documents, seed)}.values()
    )
    items += [None] * documents
    out = []
    for number in range(documents):
        chosen, length, item = list[str](), 0, items[number]
        while length < 4 * tokens:  # characters
            chosen.append(rng.choice(sentences))
            length += len(chosen[-1]) + 1
        if item:
            chosen.insert(rng.randrange(len(chosen)), item.passage)
        out.append(Given(f"{number:06}", " ".join(chosen), item.question if item else None))
    return out


def given(args: argparse.Namespace) -> list[Given]:
    """The documents of a corpus, or those that are made."""
    if args.corpus is None:
        return made(args.documents, args.tokens, args.seed)
    from benchmarks.quality.corpus import read

    texts = read(args.corpus, args.documents)
    return [Given(t.id, t.text, t.item.question if t.item else None) for t in texts]


def asked(args: argparse.Namespace) -> list[str]:
    """Questions about random documents."""
    questions = list(dict.fromkeys(one.question for one in given(args) if one.question))
    random.Random(args.seed).shuffle(questions)
    if len(questions) < args.questions:
        raise SystemExit(
            f"there are {len(questions):,} questions; give --questions {len(questions)}"
        )
    return questions[: args.questions]


# -- what runs in a fresh process ------------------------------------------------------------------


def since_start() -> float:
    return time.time() - float(os.environ[STARTED])


class Rate:
    """When how much was done."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    def __call__(self, done: float) -> None:
        if done and (not self.seen or done > self.seen[-1][1]):
            self.seen.append((since_start(), done))

    def result(self, tokens: int) -> dict[str, float]:
        """Start-up and steady state, where `tokens` are all that were to be done."""
        last, total = self.seen[-1]
        first = next(i for i, (_, done) in enumerate(self.seen) if done >= SETTLED * total)
        at, done = self.seen[first]
        steady = tokens * (total - done) / total / (last - at) if last > at else math.nan
        return {"start_s": self.seen[0][0], "tokens_s": steady, "steady_from": done / total}


def limited(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def named(args: argparse.Namespace) -> dict[str, Any]:
    """The model, as `ingest` and `loaded_encoder` take it."""
    if args.model is None:
        return {"model": None, "device": args.device}
    kind = {"dtype": "float32"} if args.model == TINY else {}
    path = str(args.folder / TINY) if args.model == TINY else args.model
    return {"model": path, "adapter": args.adapter, "device": args.device, **kind}


def child_tiny(args: argparse.Namespace) -> dict[str, Any]:
    """Write the tiny model."""
    from tests.models import make_model, make_tokenizer

    make_model("llama", max_position_embeddings=8192).save_pretrained(args.folder / TINY)
    make_tokenizer().save_pretrained(args.folder / TINY)
    return {}


def child_read(args: argparse.Namespace) -> dict[str, Any]:
    """Read the files in this process."""
    limited(args.threads)
    from sharedllm import TreeMemory
    from sharedllm.encoding.document_encoder import loaded_encoder
    from sharedllm.memory.files import index

    memory = TreeMemory(args.store, llm=loaded_encoder(**named(args)))
    rate, before = Rate(), 0

    def progress(done: int, total: int) -> None:
        nonlocal before
        rate(before + done)
        before += total if done == total else 0

    index(memory, [str(args.folder / "files")], progress)
    whole = since_start()
    tokens = sum(one.tokens for one in memory.list())
    return {**rate.result(tokens), "whole_s": whole, "tokens": tokens, "documents": len(memory)}


def on_ray(args: argparse.Namespace) -> float:
    """Start Ray with as many CPUs as are asked for, here or not; give its seconds."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    begun = time.monotonic()
    ray.init(
        "local",
        num_cpus=max(os.cpu_count() or 1, args.run * args.threads + 2),
        object_store_memory=OBJECT_STORE,
        include_dashboard=False,
        log_to_driver=False,
    )
    cards = float(ray.cluster_resources().get("GPU", 0))
    if args.run * args.gpus > cards:
        raise SystemExit(f"{args.run} actors of {args.gpus} GPUs; there are {cards:g}")
    return time.monotonic() - begun


def child_read_on_ray(args: argparse.Namespace) -> dict[str, Any]:
    """Read the files on actors."""
    ray_s = on_ray(args)
    from sharedllm.cluster.ray_ingest import RayIndexed, ingest

    rate = Rate()

    def progress(done: RayIndexed) -> None:
        rate(done.tokens)

    done = ingest(
        [str(args.folder / "files")],
        args.store,
        actors=args.run,
        num_cpus=args.threads,
        num_gpus=args.gpus,
        documents_at_once=args.at_once,
        progress=progress,
        **named(args),
    )
    whole = since_start()
    if done.failed:
        raise SystemExit(f"not read: {next(iter(done.failed.values()))}")
    own = {"ray_s": ray_s, "whole_s": whole, "tokens": done.tokens, "documents": done.added}
    return {**rate.result(done.tokens), **own}


class Asker:
    """Asks questions of the memory in a folder."""

    def __init__(self, args: argparse.Namespace) -> None:
        limited(args.threads)
        from sharedllm import SharedLLM
        from sharedllm.memory.parted_memory import open_at

        options = named(args)
        self._llm = SharedLLM.from_pretrained(options.pop("model"), **options)
        self._memory = open_at(args.store, llm=self._llm)
        self._k, self._tokens = args.k, args.answer_tokens

    def ask(self, question: str) -> tuple[float, float]:
        """Seconds of a search, and of an answer."""
        begun = time.perf_counter()
        self._memory.search(question, self._k)
        found = time.perf_counter()
        if self._tokens:
            self._llm.answer(question, self._memory, max_new_tokens=self._tokens)
        return found - begun, time.perf_counter() - found


def spent(seconds: Sequence[tuple[float, float]], whole: float, start: float) -> dict[str, Any]:
    searches, answers = zip(*seconds, strict=True)
    return {
        "questions_s": len(seconds) / whole,
        "search_s": summary(searches),
        "answer_s": summary(answers),
        "start_s": start,
    }


def summary(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "median": statistics.median(ordered),
        "p95": ordered[math.ceil(0.95 * len(ordered)) - 1],
    }


def child_ask(args: argparse.Namespace) -> dict[str, Any]:
    """Ask in this process."""
    asker = Asker(args)
    first, *questions = [*asked(args)[:1], *asked(args)]
    asker.ask(first)  # what is read once
    start, begun = since_start(), time.perf_counter()
    seconds = [asker.ask(question) for question in questions]
    return spent(seconds, time.perf_counter() - begun, start)


def child_ask_on_ray(args: argparse.Namespace) -> dict[str, Any]:
    """Ask actors, each of which has the memory open."""
    on_ray(args)
    import ray
    from ray.util import ActorPool

    questions = asked(args)
    remote = ray.remote(num_cpus=args.threads, num_gpus=args.gpus)(Asker)
    actors = [remote.remote(args) for _ in range(args.run)]
    ray.get([actor.ask.remote(questions[0]) for actor in actors])
    start, begun = since_start(), time.perf_counter()
    ask: Callable[[Any, str], Any] = lambda actor, question: actor.ask.remote(question)  # noqa: E731
    seconds = list(ActorPool(actors).map_unordered(ask, questions))
    return spent(seconds, time.perf_counter() - begun, start)


def child_parts(args: argparse.Namespace) -> dict[str, Any]:
    """Compare one memory with the same in parts."""
    limited(args.threads)
    from sharedllm import PartedMemory, TreeMemory
    from sharedllm.encoding.document_encoder import loaded_encoder

    encoder = loaded_encoder(**named(args))
    one = TreeMemory(args.folder / "one", llm=encoder)
    filling = fill(one, given(args))
    parted = divided(one, args.folder / f"parts-{args.run}", args.run, encoder)
    if len(one) != len(parted):
        raise SystemExit(f"{len(one):,} documents in one, {len(parted):,} in parts")
    questions = asked(args)
    equal = documents = 0
    firsts = {}
    both: list[tuple[str, Any]] = [("one", one), ("parts", parted)]
    if args.searchers:
        elsewhere = PartedMemory(parted.path, llm=encoder)
        elsewhere.search_elsewhere(searchers(args))
        both.append(("searchers", elsewhere))
    seconds: dict[str, list[float]] = {f"{what}, {how}": [] for what in WHAT for how, _ in both}
    for how, memory in both:
        begun = time.perf_counter()
        memory.search(questions[0], args.k)
        firsts[how] = time.perf_counter() - begun
    for number, question in enumerate(questions):
        hits = {}
        for how, memory in both if number % 2 else reversed(both):
            begun = time.perf_counter()
            hits[how] = memory.search(question, args.k)
            seconds[f"search, {how}"].append(time.perf_counter() - begun)
            begun = time.perf_counter()
            prefilter(memory, question)
            seconds[f"prefilter, {how}"].append(time.perf_counter() - begun)
        equal += all(list(found) == list(hits["one"]) for found in hits.values())
        ids = {tuple(hit.id for hit in found) for found in hits.values()}
        documents += len(ids) == 1
    return {
        "documents": len(one),
        "chunks": sum(document.chunks for document in one.list()),
        "filling_s": filling,
        "questions": len(questions),
        "k": args.k,
        "equal": equal,
        "equal_documents": documents,
        "first_search_s": firsts,
        **{name: summary(own) for name, own in seconds.items()},
    }


WHAT = ("search", "prefilter")


def searchers(args: argparse.Namespace) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """Start actors that look words up, each in parts of its own, and give what asks them."""
    on_ray(args)
    import ray

    from sharedllm import PartSearcher

    actors = [ray.remote(num_cpus=1)(PartSearcher).remote() for _ in range(args.searchers)]

    def ask(lookups: Sequence[Any]) -> Sequence[Any]:
        folders = sorted({lookup.folder for lookup in lookups})
        owner = {folder: number % len(actors) for number, folder in enumerate(folders)}
        own = [[one for one in lookups if owner[one.folder] == n] for n in range(len(actors))]
        asked = [actor.answer.remote(some) for actor, some in zip(actors, own, strict=True)]
        found = [iter(some) for some in ray.get(asked)]
        return [next(found[owner[lookup.folder]]) for lookup in lookups]

    return ask


def fill(memory: Any, documents: Sequence[Given]) -> float:
    """Add what is not there; give the seconds."""
    from sharedllm import MemoryDocument

    begun = time.perf_counter()
    there = {one.id for one in memory.list()}
    new = [MemoryDocument(id=d.id, text=d.text) for d in documents if d.id not in there]
    for at in range(0, len(new), AT_ONCE):
        memory.add(new[at : at + AT_ONCE])
        print(f"{at:,} of {len(new):,} documents", file=sys.stderr, flush=True)
    return time.perf_counter() - begun


def divided(one: Any, folder: Path, parts: int, encoder: Any) -> Any:
    """The same documents in parts, neighbours together."""
    from sharedllm import PartedMemory

    if not PartedMemory.is_at(folder):
        shutil.rmtree(folder, ignore_errors=True)
        made_here = [folder / f"part-{number:03}" for number in range(parts)]
        for part in made_here:
            one.export(part, [])
        PartedMemory(folder, made_here).close()
    parted = PartedMemory(folder, llm=encoder)
    there = {stored.id for stored in parted.list()}
    ids = [stored.id for stored in one.list()]
    share = -(-len(ids) // parts)
    for at in range(0, len(ids), share):
        new = [id for id in ids[at : at + share] if id not in there]
        if new:
            parted.import_from(one.path, new)
    return parted


def prefilter(memory: Any, question: str) -> None:
    """What a search does before it reads search vectors."""
    from sharedllm import PartedMemory

    if isinstance(memory, PartedMemory):
        retrieval = memory._retrieval(memory._some()[0])
    else:
        retrieval = memory._working.retrieval
    with retrieval._snapshots() as connections:
        parts = retrieval._asked(connections, here=False)
        retrieval._runs(parts, question, memory.encoder, None, ())


CHILDREN = {
    "tiny": child_tiny,
    "read": child_read,
    "read_on_ray": child_read_on_ray,
    "ask": child_ask,
    "ask_on_ray": child_ask_on_ray,
    "parts": child_parts,
}


# -- running ---------------------------------------------------------------------------------------


def in_child(kind: str, args: argparse.Namespace, **changed: Any) -> dict[str, Any]:
    """Run one of `CHILDREN` in a fresh process."""
    options = {**vars(args), **changed, "child": kind}
    options = {name: one for name, one in options.items() if name not in ("actors", "out")}
    command = [sys.executable, "-m", "benchmarks.ray_scale"]
    command += [
        f"--{name.replace('_', '-')}={value}"
        for name, value in options.items()
        if value is not None
    ]
    threads = {"OMP_NUM_THREADS": str(options["threads"]), STARTED: str(time.time())}
    load = round(os.getloadavg()[0], 1)
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **threads}
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**result, "load_average": load}


def measure(args: argparse.Namespace) -> None:
    """All runs, one after another; results are written after each."""
    args.folder.mkdir(parents=True, exist_ok=True)
    result = facts_of_the_machine(args)

    def note(row: dict[str, Any], line: str) -> None:
        result["rows"].append(row)
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(line, flush=True)

    if args.model == TINY and not (args.folder / TINY).exists():
        in_child("tiny", args)
    if args.parts:
        row = in_child("parts", args, run=args.parts)
        note({"how": "parts", "parts": args.parts, **row}, line_of_parts(args.parts, row))
    if not args.actors:
        return
    shutil.rmtree(args.folder / "files", ignore_errors=True)
    (args.folder / "files").mkdir()
    for one in given(args):
        (args.folder / "files" / f"{one.id}.txt").write_text(one.text, encoding="utf-8")
    cores = os.cpu_count() or 1
    plan: list[tuple[str, int]] = [("one process", args.threads)]
    plan += [("one process", cores)] if cores > args.threads and args.device == "cpu" else []
    plan += [("Ray", count) for count in args.actors]
    for how, count in plan:
        store = args.folder / f"{how.replace(' ', '-')}-{count}"
        shutil.rmtree(store, ignore_errors=True)
        on = "_on_ray" if how == "Ray" else ""
        own = {"run": count} if on else {"threads": count}
        row = in_child(f"read{on}", args, store=store, **own)
        if args.questions:
            row["asked"] = in_child(f"ask{on}", args, store=store, **own)
        what = {
            "how": how,
            **({"actors": count} if on else {}),
            "threads": own.get("threads", args.threads),
        }
        note({**what, **row}, line_of_run(what, row))


def facts_of_the_machine(args: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on."""
    left_out = ("out", "folder", "child", "run", "store")
    settings = {name: one for name, one in vars(args).items() if name not in left_out}
    if args.model not in (None, TINY):
        settings["model"] = Path(args.model).name
    settings["corpus"] = args.corpus and args.corpus.name
    machine: dict[str, Any] = hardware()
    if args.device == "cuda":
        import torch

        count = torch.cuda.device_count()
        machine["gpus"] = [torch.cuda.get_device_name(number) for number in range(count)]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "command": "python -m benchmarks.ray_scale",
        "settings": settings,
        "hardware": machine,
        "versions": {"python": platform.python_version()} | {one: version(one) for one in PACKAGES},
        "rows": [],
    }


def line_of_run(what: dict[str, Any], row: dict[str, Any]) -> str:
    """A run's figures at a glance."""
    actors = f", {what['actors']} actors" if "actors" in what else ""
    out = (
        f"{what['how']}{actors}, {what['threads']} threads: start {row['start_s']:.1f} s, "
        f"{row['tokens_s']:,.0f} tokens/s, {row['whole_s']:.1f} s in all"
    )
    if "asked" in row:
        own = row["asked"]
        out += (
            f"; {own['questions_s']:.2f} questions/s, search {own['search_s']['median']:.3f} s, "
            f"answer {own['answer_s']['median']:.2f} s"
        )
    return out


def line_of_parts(parts: int, row: dict[str, Any]) -> str:
    """The comparison at a glance."""
    times = "; ".join(
        f"{name}: {told['median']:.3f} s (95 %: {told['p95']:.3f})"
        for name, told in row.items()
        if name.startswith(WHAT)
    )
    return (
        f"{row['documents']:,} documents in {parts} parts: {row['equal']} of {row['questions']} "
        f"equal, {row['equal_documents']} with the same documents; {times}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--actors", type=int, nargs="+", help="numbers of actors, a run of each")
    add("--parts", type=int, help="of the memory that is compared with one")
    add("--searchers", type=int, default=0, help="actors that look words up in these parts")
    add("--folder", type=Path, required=True, help="for documents and memories (75 bytes a token)")
    add("--out", type=Path, help="JSON")
    add("--documents", type=int, default=400)
    add("--tokens", type=int, default=1000, help="of a document, about")
    add("--corpus", type=Path, help="of benchmarks.quality.corpus; else documents are made")
    add("--questions", type=int, default=40, help="that are asked; 0: only read")
    add("--answer-tokens", type=int, default=16, help="of an answer; 0: only search")
    add("--k", type=int, default=8, help="passages that a search gives")
    add("--model", help=f"a folder or name; {TINY!r}; the default model without")
    add("--adapter", help="of --model; none without")
    add("--device", default="cpu", choices=("cpu", "cuda"))
    add("--gpus", type=float, default=0.0, help="of an actor, fractions too; needs --device cuda")
    add("--threads", type=int, default=1, help="of the one process, and of an actor")
    add("--at-once", type=int, default=32, help="documents that an actor gets at a time")
    add("--seed", type=int, default=0)
    for name, kind in (("child", str), ("run", int), ("store", Path)):
        add(f"--{name}", type=kind, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(CHILDREN[args.child](args)))
        return
    if not (args.actors or args.parts):
        parser.error("give --actors 1 2 4 or --parts 8")
    if args.out is None:
        parser.error("give --out FILE.json")
    if (args.device == "cuda") != (args.gpus > 0) and args.actors:
        parser.error("--gpus is the share of a GPU that an actor of --device cuda has; give both")
    measure(args)


if __name__ == "__main__":
    main()
