"""The same chains over the k best chunks and over whole documents: how well they answer.

    python -m benchmarks.quality.chains --data DEV_FOLDER --out benchmarks/results/chains.json

Five documents of 32K to 128K tokens are one library. LangChain's chain (retriever, prompt, model,
parser) and LlamaIndex's query engine are asked the same questions with the same number of tokens of
evidence: chunks of 256 tokens, found by BM25 or MiniLM, or whole documents as trees. The model is
the base, or has the adapter; for chunks the adapter is merged into the weights, because without
documents the base answers. What `--out` holds already is not asked again, so that another
`--adapter` asks only what depends on it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from llama_index.core.base.base_retriever import BaseRetriever as IndexRetriever
from llama_index.core.prompts.default_prompts import DEFAULT_TEXT_QA_PROMPT
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.quality.chunk_stores import WINDOW, BestLast, BM25Chunks, chunks, minilm_store
from benchmarks.quality.library import SIZES, Library, library
from sharedllm import MemoryDocument, SharedLLM, TreeMemory, loaded_for
from sharedllm.evaluation import metrics
from sharedllm_integrations.langchain import ChatSharedLLM, TreeMemoryRetriever
from sharedllm_integrations.llamaindex import LlamaIndexSharedLLM, TreeMemoryIndex

# rlm/rag-prompt, which LangChain's tutorial pulls, and the same with the question last
HEAD = (
    "You are an assistant for question-answering tasks. Use the following pieces of retrieved "
    "context to answer the question. If you don't know the answer, just say that you don't know. "
    "Use three sentences maximum and keep the answer concise.\n"
)
FORMS = {
    "question last": HEAD + "Context: {context} \nQuestion: {question} \nAnswer:",
    "question first": HEAD + "Question: {question} \nContext: {context} \nAnswer:",
}
DOCUMENTS = 3  # whole ones of the five that a retriever hands on
NEW_TOKENS = 32
Asked = tuple[str, str, Any]  # the answer, what the model was given, what happened to the documents


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row of the table.

    Parameters
    ----------
    context : "trees", or the retriever of chunks
    model : "base", or "adapter"
    form : of the prompt
    """

    context: str
    model: str
    form: str = "question last"
    framework: str = "LangChain"

    def items(self, args: argparse.Namespace) -> int:
        """How many questions it is asked."""
        if self.framework == "LlamaIndex":
            return int(args.index_items)
        return int(args.items if self.form == "question last" else args.first_items)

    @property
    def name(self) -> str:
        return f"{self.framework}, {self.form}: {self.context}, {self.model}"


def methods(models: str) -> Iterator[Method]:
    """What is asked, of the base, of the adapter, or of both."""
    for model in ("base", "adapter"):
        if models not in ("all", model):
            continue
        for context in ("BM25", "MiniLM", "trees"):
            yield Method(context=context, model=model)
        for context in ("BM25", "trees"):
            yield Method(context=context, model=model, form="question first")
    if models != "base":  # what small models and templates do to it
        yield Method(context="BM25, best last", model="adapter")
        yield Method(context="trees, not repeated", model="adapter", form="question first")
        for context in ("MiniLM", "trees"):
            yield Method(context=context, model="adapter", framework="LlamaIndex")


class IndexChunks(IndexRetriever):
    """A retriever of LangChain in LlamaIndex's place."""

    def __init__(self, found_by: BaseRetriever) -> None:
        self.found_by = found_by
        super().__init__()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        found = self.found_by.invoke(query_bundle.query_str)
        return [NodeWithScore(node=TextNode(text=one.page_content)) for one in found]


class Pipelines:
    """Everything that answers, made when it is first needed."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        self.own = {"search": {"budget": args.budget}, "max_tokens": NEW_TOKENS}

    @cached_property
    def base(self) -> SharedLLM:
        return SharedLLM.from_pretrained(adapter=None, device="cpu")

    @cached_property
    def adapted(self) -> SharedLLM:
        return SharedLLM.from_pretrained(adapter=self.args.adapter, device="cpu")

    @cached_property
    def merged(self) -> SharedLLM:
        """The adapter in the weights, so that it reads chunks as well."""
        self.adapted.save_pretrained(self.folder / "merged", merged=True)
        return SharedLLM.from_pretrained(self.folder / "merged/upper", adapter=None, device="cpu")

    @cached_property
    def library(self) -> Library:
        return library(self.args.data, self.args.items, self.args.seed, self.base.tokenizer)

    @cached_property
    def chunks(self) -> dict[str, BaseRetriever]:
        """Retrievers of as many chunks as the budget holds."""
        k, cut = self.args.budget // WINDOW, chunks(self.library.volumes, self.base.tokenizer)
        by_words = BM25Chunks(chunks=cut, k=k)
        store = minilm_store(cut, self.args.embeddings)
        return {
            "BM25": by_words,
            "BM25, best last": BestLast(found_by=by_words),
            "MiniLM": store.as_retriever(search_kwargs={"k": k}),
        }

    @cached_property
    def memories(self) -> dict[str, TreeMemory]:
        return {}

    def memory(self, model: str) -> TreeMemory:
        """The library as trees; the adapter's states are others than the base's."""
        if model not in self.memories:
            llm = self.base if model == "base" else self.adapted
            made = self.memories[model] = TreeMemory(self.folder / model, llm=llm)
            made.add(
                MemoryDocument(id=one.id, text=one.text, **one.named)
                for one in self.library.volumes
            )
        return self.memories[model]

    def asker(self, method: Method) -> Callable[[str], Asked]:
        """What answers a question by `method`."""
        if method.framework == "LlamaIndex":
            return self._engine(method)
        if method.context.startswith("trees"):
            memory = self.memory(method.model)
            extra = {} if method.context == "trees" else {"repeat_question": False}
            chat = ChatSharedLLM(llm=loaded_for(memory), memory=memory, **self.own, **extra)
            found_by: BaseRetriever = TreeMemoryRetriever(memory=memory, k=DOCUMENTS)
        else:
            llm = self.base if method.model == "base" else self.merged
            chat = ChatSharedLLM(llm=llm, long_text=None, **self.own)
            found_by = self.chunks[method.context]
        return _chain(found_by, FORMS[method.form], chat)

    def _engine(self, method: Method) -> Callable[[str], Asked]:
        """LlamaIndex's query engine with its own prompt."""
        if method.context == "trees":
            memory = self.memory(method.model)
            ours = LlamaIndexSharedLLM(llm=loaded_for(memory), memory=memory, **self.own)
            engine: RetrieverQueryEngine = TreeMemoryIndex(memory, llm=ours).as_query_engine(
                similarity_top_k=DOCUMENTS, text_qa_template=DEFAULT_TEXT_QA_PROMPT
            )
        else:
            plain = self.base if method.model == "base" else self.merged
            retriever = IndexChunks(self.chunks[method.context])
            engine = RetrieverQueryEngine.from_args(
                retriever, llm=LlamaIndexSharedLLM(llm=plain, long_text=None, **self.own)
            )

        def ask(question: str) -> Asked:
            response: Any = engine.query(question)
            calls = (response.metadata or {}).get("sharedllm") or [{"citations": []}]
            given = [node.node.get_content() for node in response.source_nodes]
            if method.context == "trees":
                given = [one["text"] for one in calls[0]["citations"]]
            return str(response), "\n".join(given), calls[0]

        return ask


def _chain(found_by: BaseRetriever, form: str, chat: ChatSharedLLM) -> Callable[[str], Asked]:
    """LangChain's chain, which also says what the model was given."""
    answering = ChatPromptTemplate.from_template(form) | chat
    parser = StrOutputParser()

    def ask(question: str) -> Asked:
        found = found_by.invoke(question)
        context = "\n\n".join(one.page_content for one in found)
        message = answering.invoke({"context": context, "question": question})
        happened = message.response_metadata["sharedllm"]
        if happened["documents"]:
            context = "\n".join(one["text"] for one in happened["citations"])
        return parser.invoke(message), context, happened

    return ask


def answered(method: Method, pipelines: Pipelines, n: int) -> list[dict[str, Any]]:
    """A row for each of the first `n` questions."""
    ask, rows = pipelines.asker(method), []
    for item in track(pipelines.library.items[:n], method.name):
        started = time.perf_counter()
        answer, given, _ = ask(item.question)
        seconds = time.perf_counter() - started
        rows.append(
            {
                "answer": answer,
                "right": metrics.contains(answer, item.answers),
                "f1": round(metrics.f1(answer, item.answers), 4),
                "exact": metrics.exact(answer, item.answers),
                "refused": float(metrics.refuses(answer)),
                "given": metrics.contains(given, item.answers),
                "seconds": round(seconds, 2),
            }
        )
    return rows


def show(results: list[dict[str, Any]], console: Console) -> None:
    """Means with half the width of their 95 % interval, and paired differences."""
    table = Table(
        "", "adapter", "n", "right %", "F1", "exact %", "refused %", "answer given %", "s"
    )
    for one in results:
        cells = [_mean(one["rows"], name, 100) for name in ("right", "f1", "exact", "refused")]
        cells[1] = _mean(one["rows"], "f1", 1)
        seconds = statistics.median(row["seconds"] for row in one["rows"])
        given, n = _mean(one["rows"], "given", 100), str(len(one["rows"]))
        table.add_row(one["method"], one["adapter"][:6], n, *cells, given, f"{seconds:.1f}")
    console.print(table)
    for one in results:
        for other in results:
            if _compare(one, other):
                n = min(len(one["rows"]), len(other["rows"]))
                names = f"{one['method']} minus {other['method']}"
                console.print(f"{names} (n={n}): {_gap(one, other, n)}")


def _compare(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether they differ in one thing: trees beside chunks, or the adapter beside the base."""
    where, _, context = one["method"].rpartition(", ")[0].partition(": ")
    there, _, others = other["method"].rpartition(", ")[0].partition(": ")
    same_model = (one["model"], one["adapter"]) == (other["model"], other["adapter"])
    beside = context == "trees" and others != context and same_model
    gain = (one["model"], other["model"]) == ("adapter", "base") and context == others
    return where == there and (beside or gain)


def _mean(rows: list[dict[str, Any]], name: str, times: int) -> str:
    found = metrics.mean([times * row[name] for row in rows])
    digits = 0 if times == 100 else 3
    half = "" if found.half is None else f" ± {found.half:.{digits}f}"
    return f"{found.value:.{digits}f}{half}"


def _gap(one: dict[str, Any], other: dict[str, Any], n: int) -> str:
    out = []
    for name, times, digits in (("right", 100, 1), ("f1", 1, 3)):
        ours, theirs = ([times * row[name] for row in r["rows"][:n]] for r in (one, other))
        found = metrics.difference(ours, theirs)
        half = "" if found.half is None else f" ± {found.half:.{digits}f}"
        out.append(f"{name} {found.value:+.{digits}f}{half}")
    return ", ".join(out)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--items", type=int, default=48)
    parser.add_argument("--first-items", type=int, default=36, help="with the question first")
    parser.add_argument("--index-items", type=int, default=21, help="of LlamaIndex's engines")
    parser.add_argument("--budget", type=int, default=1024)
    parser.add_argument("--adapter", default="default", help="folder of another one")
    parser.add_argument("--models", choices=("base", "adapter", "all"), default="all")
    parser.add_argument("--only", default="", help="names of methods hold this")
    parser.add_argument("--embeddings", type=Path, help="file to keep MiniLM's embeddings in")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.data is None and not (given.out and given.out.exists()):
        parser.error("give --data, or results to show as --out")
    return given


def main() -> None:
    args, console = options(), Console(width=160)
    torch.set_num_threads(args.threads)
    settings = {name: getattr(args, name) for name in ("items", "budget", "seed", "threads")}
    settings |= {"documents": list(SIZES), "new_tokens": NEW_TOKENS}
    held: dict[str, Any] = {"settings": settings, "results": []}
    if args.out and args.out.exists():
        held = json.loads(args.out.read_text(encoding="utf-8"))
    if args.data is not None:
        if held["settings"] != settings:
            raise SystemExit("--out holds results of other settings; give another file")
        with tempfile.TemporaryDirectory() as folder:
            ask_all(args, Pipelines(args, Path(folder)), held)
    show(held["results"], console)


def ask_all(args: argparse.Namespace, pipelines: Pipelines, held: dict[str, Any]) -> None:
    """Add the results that `held` lacks, and write it after each."""
    held |= {"machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    for method in methods(args.models):
        version = "" if method.model == "base" else pipelines.adapted.adapter.fingerprint()[:16]
        key = {"method": method.name, "model": method.model, "adapter": version}
        if args.only not in method.name or _holds(held, key):
            continue
        rows = answered(method, pipelines, method.items(args))
        held["results"].append({**key, "date": time.strftime("%Y-%m-%d"), "rows": rows})
        held["questions"] = [
            {"kind": one.kind, "question": one.question, "answers": one.answers}
            for one in pipelines.library.items
        ]
        if args.out:
            write(held, args.out)


def _holds(held: dict[str, Any], key: dict[str, str]) -> bool:
    return any(all(one[name] == key[name] for name in key) for one in held["results"])


def write(held: dict[str, Any], out: Path) -> None:
    """A line for each method."""
    rest = json.dumps({name: value for name, value in held.items() if name != "results"})
    results = ",\n".join(json.dumps(one) for one in held["results"])
    out.write_text(f'{rest[:-1]}, "results": [\n{results}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
