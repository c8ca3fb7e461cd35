"""Speed and memory on the CPU: the default model, and a book of 128K tokens.

    python -m benchmarks.cpu --out benchmarks/results/cpu.json

Each row of the table is a phase in a fresh process: seconds, what it must compute and move
(speed/costs.py), and the seconds that this machine's matrix rate and copy bandwidth allow for that.
The operating system's file cache is left as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.speed.costs import Cost, Size, compare, decode, prefill, read_chunks

TOKENS = 131072
QUESTIONS = (
    "What is the name of Henchard's young Scotch manager?",
    "What is the name of the inn where Elizabeth-Jane and her mother stayed?",
    "What does the furmity-woman put into the basins?",
    "For how many years does Henchard swear to avoid strong liquors?",
    "Where does Lucetta come from?",
    "What machine does Farfrae introduce to the market?",
    "What does Henchard's will say?",
)
BOOK = Path(__file__).parents[1] / "cookbooks" / "data" / "the_mayor_of_casterbridge.txt"
TARGETS = {"first answer": 60.0, "later question": 10.0, "peak GiB": 4.0}


# -- what runs in a fresh process ----------------------------------------------------------------


def peak_gib() -> float:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def child_cut(args: argparse.Namespace) -> dict[str, Any]:
    """Write the book, cut to `args.tokens` tokens; fills the cache of converted weights."""
    from sharedllm import SharedLLM
    from sharedllm.text.tokens import tokenize

    llm = SharedLLM.from_pretrained()
    text = args.book.read_text(encoding="utf-8")
    tokens = tokenize(text, llm.tokenizer)
    count = min(args.tokens, len(tokens))
    args.text.write_text(text[: tokens.characters(0, count)[1]], encoding="utf-8")
    return {"tokens": count}


def child_ask(args: argparse.Namespace) -> dict[str, Any]:
    """From the start of the process to the last answer."""
    from sharedllm.hf.loading import convert_default_once
    from sharedllm.shared_llm import SharedLLM

    at = [args.started, time.time()]
    convert_default_once()
    at.append(time.time())
    llm = SharedLLM.from_pretrained()
    at.append(time.time())
    text = args.text.read_text(encoding="utf-8")
    document = llm.remember(text, title="book")
    at.append(time.time())
    answers, streamed = [], 0.0
    for question in QUESTIONS[: args.questions]:
        asked = time.time()
        stream = llm.stream(question, document)
        next(stream)
        streamed = streamed or time.time() - args.started
        answer = stream.answer
        answers.append(
            {
                "question": question,
                "seconds": time.time() - asked,
                "finished_s": time.time() - args.started,
                "peak_gib": peak_gib(),
                **answer.to_dict(),
            }
        )
        del answers[-1]["citations"]
    phases = dict(zip(("import", "convert", "load", "remember"), _steps(at), strict=True))
    return {
        "phases": phases,
        "first_piece_s": streamed,
        "search_in_bf16": llm.encoder.lower.search_in_bf16,
        "dtype": str(llm.model.dtype).removeprefix("torch."),
        "document_tokens": len(document),
        "query_tokens": [len(llm.tokenizer(q)["input_ids"]) for q in QUESTIONS],
        "answers": answers,
    }


def child_encode(args: argparse.Namespace) -> dict[str, Any]:
    """Coarse encoding of a slice, then a question while another slice is being encoded."""
    from sharedllm.shared_llm import SharedLLM

    llm = SharedLLM.from_pretrained(dtype=args.dtype)
    text = args.text.read_text(encoding="utf-8")
    part = args.slice * len(text) // args.tokens
    first, second = (llm.remember(text[at : at + part]) for at in (0, part))
    started = time.perf_counter()
    llm.encode(first)
    seconds = time.perf_counter() - started
    work = llm.encode(second, background=True)
    asked = time.perf_counter()
    answer = llm.answer(QUESTIONS[0], first)
    waited = time.perf_counter() - asked
    running = not work.done()
    work.result()
    return {
        "dtype": args.dtype,
        "tokens": len(first),
        "seconds": seconds,
        "question_beside_it_s": waited,
        "question_timings": answer.to_dict()["timings"],
        "still_encoding_then": running,
        "peak_gib": peak_gib(),
    }


def child_machine(args: argparse.Namespace) -> dict[str, Any]:
    """Matrix rates and copy bandwidth, the best of several."""
    import torch

    out: dict[str, Any] = {"threads": torch.get_num_threads()}
    n, big = 2048, 2**27
    for dtype in ("float32", "bfloat16"):
        a, b = (torch.randn(n, n).to(getattr(torch, dtype)) for _ in range(2))
        out[f"{dtype}_flops"] = 2 * n**3 / _best(lambda a=a, b=b: a @ b)  # type: ignore[misc]
    source, target = torch.ones(big), torch.zeros(big)
    out["copy_bytes"] = 2 * 4 * big / _best(lambda: target.copy_(source))
    out["torch"] = torch.__version__
    return out


def _best(call: Callable[[], Any], times: int = 8) -> float:
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def _steps(at: list[float]) -> list[float]:
    return [b - a for a, b in pairwise(at)]


CHILDREN = {
    "cut": child_cut,
    "ask": child_ask,
    "encode": child_encode,
    "machine": child_machine,
}


# -- the table -----------------------------------------------------------------------------------


def phases(run: dict[str, Any], size: Size, machine: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each phase up to the first answer, with its cost and its floor."""
    answer = run["answers"][0]
    took, used = answer["timings"], answer["usage"]
    tokens, running, new = run["document_tokens"], used["prompt_tokens"], used["new_tokens"]
    size = replace(size, weight=2 if run["dtype"] == "bfloat16" else 4)
    own = machine[f"{run['dtype']}_flops"]
    states = machine["bfloat16_flops"] if run["search_in_bf16"] else own
    weights = size.weight * size.parameters
    rows = [
        ("import", run["phases"]["import"], None, own),
        ("load", run["phases"]["load"], Cost(bytes=weights), own),
        ("remember", run["phases"]["remember"], read_chunks(size, tokens, 1024, 1), states),
        ("search", took["search_s"], compare(size.width, run["query_tokens"][0], tokens), own),
        ("prefill", took["prefill_s"], prefill(size, running), own),
        ("decode", took["decode_s"], decode(size, new, running + new // 2), own),
    ]
    if run["phases"]["convert"] > 0.5:  # else they were converted already
        rows.insert(1, ("convert", run["phases"]["convert"], Cost(bytes=2 * weights), own))
    return [phase(name, seconds, cost, rate, machine) for name, seconds, cost, rate in rows]


def phase(
    name: str, seconds: float, cost: Cost | None, rate: float, machine: dict[str, Any]
) -> dict[str, Any]:
    out: dict[str, Any] = {"phase": name, "seconds": seconds}
    if cost is not None:
        floor = cost.floor(rate, machine["copy_bytes"])
        out |= {"flops": cost.flops, "bytes": cost.bytes, "floor_s": floor}
        out["floor_share"] = floor / seconds
    return out


def encoding(run: dict[str, Any], size: Size, machine: dict[str, Any]) -> dict[str, Any]:
    """The slice's rate, and what it means for the whole book."""
    name = f"coarse encoding, {run['dtype']}, slice of {run['tokens']:,}"
    cost = read_chunks(size, run["tokens"], 1024, size.layers)
    row = phase(name, run["seconds"], cost, machine[f"{run['dtype']}_flops"], machine)
    rate = run["tokens"] / run["seconds"]
    return {**run, **row, "tokens_a_second": rate, "extrapolated_to_book_s": TOKENS / rate}


def show(result: dict[str, Any]) -> None:
    """Print one table of phases and one of what was reached."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{result['hardware']['cpu']}, {result['hardware']['cores']} cores")
    for name in ("phase", "s", "GFLOP", "GB", "floor s", "floor / measured"):
        table.add_column(name, justify="left" if name == "phase" else "right")
    for title in ("cold", "cached"):
        table.add_section()
        for row in result[title]["phases"]:
            table.add_row(*_cells(row, f"{title}: {row['phase']}"))
    table.add_section()
    for row in result["encoding"]:
        table.add_row(*_cells(row, row["phase"]))
    reached = Table(title="reached")
    for name in ("", "measured", "target"):
        reached.add_column(name, justify="left" if not name else "right")
    for name, value, target in result["reached"]:
        reached.add_row(name, f"{value:.2f}", f"< {target:g}" if target else "")
    console = Console(width=100)
    console.print(table)
    console.print(reached)
    console.print(f"load average {result['load_before']} before, {result['load_after']} after")


def _cells(row: dict[str, Any], name: str) -> list[str]:
    cells = [name, f"{row['seconds']:.2f}"]
    if "floor_s" in row:
        cells += [f"{row['flops'] / 1e9:,.1f}", f"{row['bytes'] / 1e9:.2f}"]
        cells += [f"{row['floor_s']:.2f}", f"{row['floor_share']:.2f}"]
    return cells


def reached(result: dict[str, Any]) -> list[tuple[str, float, float | None]]:
    cold, cached = result["cold"], result["cached"]
    later = [answer["seconds"] for answer in cached["answers"][1:]]
    first, question = TARGETS["first answer"], TARGETS["later question"]
    rows: list[tuple[str, float, float | None]] = [
        ("cold: first piece, s from process start", cold["first_piece_s"], first),
        ("cold: first answer finished, s", cold["answers"][0]["finished_s"], first),
        ("cached: first piece, s from process start", cached["first_piece_s"], None),
        ("cached: first answer finished, s", cached["answers"][0]["finished_s"], None),
        (f"later question, median of {len(later)}, s", statistics.median(later), question),
        ("later question, slowest, s", max(later), question),
    ]
    for run in result["encoding"]:
        name = f"question while encoding in {run['dtype']}, s"
        rows.append((name, run["question_beside_it_s"], question))
        name = f"whole book encoded in {run['dtype']}, s (extrapolated)"
        rows.append((name, run["extrapolated_to_book_s"], None))
    peaks = [answer["peak_gib"] for run in (cold, cached) for answer in run["answers"]]
    peaks += [run["peak_gib"] for run in result["encoding"]]
    return [*rows, ("peak resident memory of all runs, GiB", max(peaks), TARGETS["peak GiB"])]


# -- running -------------------------------------------------------------------------------------


def in_child(kind: str, cache: Path, **options: Any) -> dict[str, Any]:
    """Run one of `CHILDREN` in a fresh process."""
    given = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "benchmarks.cpu", f"--child={kind}", *given]
    command.append(f"--started={time.time()}")
    environment = {**os.environ, "SHAREDLLM_CACHE": str(cache)}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, encoding="utf-8", check=True
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def hardware() -> dict[str, Any]:
    """Name, cores and memory of this machine."""
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), name)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {"cpu": name, "cores": os.cpu_count(), "memory_gib": round(memory, 1)}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All runs, one after another."""
    from importlib.metadata import version

    load = [round(x, 2) for x in os.getloadavg()]
    with tempfile.TemporaryDirectory() as folder:
        warm, cold, text = Path(folder) / "warm", Path(folder) / "cold", Path(folder) / "book.txt"
        in_child("cut", warm, book=args.book, text=text, tokens=args.tokens)
        machine = in_child("machine", warm)
        result: dict[str, Any] = {
            "date": time.strftime("%Y-%m-%d"),
            "command": "python -m benchmarks.cpu",
            "hardware": hardware(),
            "versions": {
                "python": platform.python_version(),
                "torch": machine.pop("torch"),
                "transformers": version("transformers"),
            },
            "book": args.book.name,
            "load_before": load,
            "machine": machine,
            "cold": in_child("ask", cold, text=text, questions=1),
            "cached": in_child("ask", warm, text=text, questions=len(QUESTIONS)),
        }
        encodes = [
            in_child("encode", warm, text=text, tokens=args.tokens, slice=args.slice, dtype=dtype)
            for dtype in ("float32", "bfloat16")
        ]
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(next(warm.glob("*/config.json")).parent)
    result["load_after"] = [round(x, 2) for x in os.getloadavg()]
    for title in ("cold", "cached"):
        result[title]["phases"] = phases(result[title], Size.of(config, 4), machine)
    result["encoding"] = [
        encoding(run, Size.of(config, 4 if run["dtype"] == "float32" else 2), machine)
        for run in encodes
    ]
    result["reached"] = reached(result)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--book", type=Path, default=BOOK, help="the one that QUESTIONS are about")
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--slice", type=int, default=8192, help="tokens of the coarse encoding")
    parser.add_argument("--out", type=Path, default=None, help="JSON file for the results")
    for name, kind in (("text", Path), ("questions", int), ("dtype", str), ("started", float)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(CHILDREN[args.child](args)))
        return
    result = measure(args)
    show(result)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
