"""What the adapters add to calling the core directly, on the embedded default model.

    python -m benchmarks.integrations --out benchmarks/results/integrations.json

Each case runs all ways in turn, the same question over the same trees, and the answers are
compared. The overhead is the median of the differences of neighbouring runs over the core's median,
in processor time, which other programs on the machine disturb least; wall time stands beside it.
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
from pathlib import Path
from typing import Any

import torch
from llama_index.core.schema import MetadataMode

from sharedllm import MemoryDocument, TreeMemory, loaded
from sharedllm_integrations import llamaindex
from sharedllm_integrations.langchain import ChatSharedLLM, TreeMemoryRetriever
from sharedllm_integrations.references import Scope
from sharedllm_integrations.tree_cache import process_cache

QUESTION = "How much money does the sailor pay for Susan?"
BEFORE, AFTER = "Use the text to answer.\n\n", f"\n\nQuestion: {QUESTION}"
FRAMEWORKS = {
    "langchain": (
        "langchain_core.language_models.chat_models, langchain_core.language_models.llms, "
        "langchain_core.indexing, langchain_core.output_parsers, langchain_core.tools, "
        "langchain_core.documents.compressor"
    ),
    "llamaindex": "llama_index.core",
}
CORE, WAYS = "core", ("LangChain", "LlamaIndex")
Case = dict[str, Callable[[], str]]
Documents = Callable[[], list[Any]]


def timed(work: Callable[[], str]) -> tuple[float, float, str]:
    """Seconds of processor time, of wall time, and the answer."""
    wall, cpu = time.perf_counter(), time.process_time()
    answer = work()
    return time.process_time() - cpu, time.perf_counter() - wall, answer


def compare(case: Case, rounds: int) -> dict[str, Any]:
    """All ways of one case, in turn, and the other way round every second time."""
    answers = {work() for work in case.values()}
    runs: dict[str, list[tuple[float, float, str]]] = {name: [] for name in case}
    for turn in range(rounds):
        for name in list(case)[:: 1 if turn % 2 else -1]:
            runs[name].append(timed(case[name]))
    answers |= {run[2] for way in runs.values() for run in way}
    if len(answers) > 1:
        raise SystemExit(f"core and adapters answered differently: {answers}")
    out: dict[str, Any] = {"answer": answers.pop(), "rounds": rounds}
    for index, kind in enumerate(("cpu", "wall")):
        core = [run[index] for run in runs[CORE]]
        base = statistics.median(core)
        out[kind] = {"core_s": round(base, 4)}
        for name in WAYS:
            ours = [run[index] for run in runs[name]]
            added = statistics.median(a - c for a, c in zip(ours, core, strict=True))
            out[kind][name] = {
                "added_s": round(added, 4),
                "overhead_percent": round(100 * added / base, 2),
            }
    return out


def cases(text: str, folder: Path) -> dict[str, Case]:
    """What is asked, by the core and by the adapters."""
    llm = loaded(device="cpu")
    chat = ChatSharedLLM(llm=llm, max_tokens=16)
    memory = TreeMemory(folder, llm=llm)
    memory.add(MemoryDocument(id="book", text=text, title="A book"))
    stored = ChatSharedLLM(llm=llm, memory=memory, max_tokens=16)
    index_chat = llamaindex.LlamaIndexSharedLLM(llm=llm, max_tokens=16)
    index_stored = llamaindex.LlamaIndexSharedLLM(llm=llm, memory=memory, max_tokens=16)
    retrieved = TreeMemoryRetriever(memory=memory, k=1).invoke(QUESTION)[0].page_content
    (found,) = llamaindex.TreeMemoryRetriever(memory, similarity_top_k=1).retrieve(QUESTION)
    reference = found.node.get_content(MetadataMode.LLM)

    def core(documents: list[Any]) -> str:
        parts = [
            {"type": "text", "text": BEFORE},
            *({"type": "document", "document": document} for document in documents),
            {"type": "text", "text": AFTER},
        ]
        messages = [{"role": "user", "content": parts}]
        return llm.answer(messages, max_new_tokens=16).text

    def asked(model: ChatSharedLLM, context: str) -> str:
        return model.invoke(f"{BEFORE}{context}{AFTER}").text

    def completed(model: llamaindex.LlamaIndexSharedLLM, context: str) -> str:
        return model.complete(f"{BEFORE}{context}{AFTER}").text.strip()

    def case(
        documents: Callable[[], list[Any]], mine: tuple[Any, str], its: tuple[Any, str]
    ) -> Case:
        ways = (lambda: core(documents()), lambda: asked(*mine), lambda: completed(*its))
        return dict(zip((CORE, *WAYS), ways, strict=True))

    other = f"{text} "  # not the memory's, so that the cache of the process is what knows it
    marked, document = Scope("", "").enclosed("", other), llm.remember(other, title="A book")
    return {
        "no document": case(list, (chat, ""), (index_chat, "")),
        "a document in the process's cache": case(
            lambda: [document], (chat, marked), (index_chat, marked)
        ),
        "a document of a memory": case(
            lambda: list(memory.documents_for(QUESTION, llm, {"id": "book"})),
            (stored, retrieved),
            (index_stored, reference),
        ),
    }


def import_seconds(framework: str, rounds: int = 5) -> float:
    """Processor time that importing the adapter adds to importing the framework."""
    code = (
        f"import time; import {FRAMEWORKS[framework]}; start = time.process_time(); "
        f"import sharedllm_integrations.{framework}; print(time.process_time() - start)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(rounds)
    ]
    return round(statistics.median(float(run.stdout) for run in runs), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    book = Path("cookbooks/data/the_mayor_of_casterbridge.txt")
    parser.add_argument("--book", type=Path, default=book)
    parser.add_argument("--characters", type=int, default=60_000, help="of the book")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    text = args.book.read_text(encoding="utf-8")[: args.characters]
    with tempfile.TemporaryDirectory() as folder:
        found = {name: compare(c, args.rounds) for name, c in cases(text, Path(folder)).items()}
    process_cache().clear()
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": time.strftime("%Y-%m-%d"),
        "threads": args.threads,
        "characters": len(text),
        "import_s": {name: import_seconds(name) for name in FRAMEWORKS},
        "cases": found,
    }
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
