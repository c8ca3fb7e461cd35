"""Answers of the default model about the shipped novels, in float32 on one thread.

    python -m tests.golden.answers    writes golden.json anew, for a change that is meant

What is kept of an answer is its text, its citations by place and score, and what it used.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough

from sharedllm import Answer, MemoryDocument, SharedLLM, TreeMemory
from sharedllm_integrations.langchain import ChatSharedLLM, TreeMemoryRetriever
from sharedllm_integrations.llamaindex import LlamaIndexSharedLLM, TreeMemoryIndex

FILE = Path(__file__).with_name("golden.json")
BOOKS = Path(__file__).parents[2] / "cookbooks" / "data"
NOVELS = {"mayor": "the_mayor_of_casterbridge", "comrade": "the_good_comrade", "alas": "alas"}
CHARACTERS = 60_000  # of each novel: the whole would take minutes on one thread

QUESTIONS: dict[str, tuple[Any, tuple[str, ...], dict[str, Any]]] = {
    "sum": ("How much money does the sailor pay for Susan?", ("mayor",), {}),
    "who": ("Who is Elizabeth-Jane's mother?", ("mayor",), {}),
    "oath": ("For how many years does Henchard swear to avoid strong liquors?", ("mayor",), {}),
    "drink": ("What does the furmity woman put into the furmity?", ("mayor",), {}),
    "ship": ("What is the name of the sailor?", ("mayor",), {"budget": 256}),
    "flower": ("What colour is the daffodil?", ("comrade",), {}),
    "debt": ("To whom does Captain Polkington owe money?", ("comrade",), {}),
    "merchant": ("Who is the old Dutchman that stayed nearly a week?", ("comrade",), {}),
    "worth": ("How much does Cross think a blue daffodil is worth?", ("comrade",), {}),
    "reader": ("What does Burgoyne read aloud to the women?", ("alas",), {}),
    "where": ("In which town does Burgoyne read aloud?", ("alas",), {}),
    "absent": ("What is the name of the astronaut's spaceship?", ("alas",), {}),
    "books": ("Who sells his wife?", ("mayor", "comrade", "alas"), {}),
    "memory": ("What colour is the daffodil?", ("memory",), {}),
    "chat": (
        [
            {"role": "user", "content": "Who is Susan?"},
            {"role": "assistant", "content": "Henchard's wife."},
            {"role": "user", "content": "How much does the sailor pay for her?"},
        ],
        ("memory",),
        {},
    ),
    "words": ("What is the name of the sailor?", ("mayor",), {"scorer": "bm25"}),
    "vectors": ("How much money does the sailor pay?", ("mayor",), {"scorer": "maxsim"}),
    "kv": ("How much money does the sailor pay for Susan?", ("mayor",), {"leaves": "kv"}),
    "coarse": (
        "What colour is the daffodil?",
        ("short",),
        {"leaves": "kv", "coarse": "all", "budget": 256},
    ),
    "path": ("What colour is the daffodil?", ("short",), {"selection": "path", "leaves": "kv"}),
}
CHAIN = "How much money does the sailor pay for Susan?"


def novel(name: str) -> str:
    return (BOOKS / f"{NOVELS[name]}.txt").read_text(encoding="utf-8")[:CHARACTERS]


class Golden:
    """The default model with the beginnings of the three novels, read once.

    Parameters
    ----------
    folder : where its memory is made
    """

    def __init__(self, folder: Path) -> None:
        self.llm = SharedLLM.from_pretrained(device="cpu", dtype="float32")
        self.llm.encoder.lower.search_in_bf16 = False  # as on processors without it
        self.memory = TreeMemory(folder, llm=self.llm)
        self.memory.add(
            [MemoryDocument(id=n, text=novel(n), title=n, source=f"{n}.txt") for n in NOVELS]
        )
        self._contexts: dict[str, Any] = {
            name: self.llm.remember(novel(name), title=name, source=f"{name}.txt")
            for name in NOVELS
        }
        text = novel("comrade")
        at = text.index("It was a novelty then")
        self._contexts["short"] = self.llm.remember(text[at - 6000 : at + 6000], title="comrade")
        self._contexts["memory"] = self.memory

    def answer(self, name: str) -> dict[str, Any]:
        question, contexts, options = QUESTIONS[name]
        given = [self._contexts[context] for context in contexts]
        return kept(self.llm.answer(question, given, max_new_tokens=24, **options))

    def langchain(self) -> dict[str, Any]:
        prompt = ChatPromptTemplate.from_template("{context}\n\nQuestion: {question}")
        retriever = TreeMemoryRetriever(memory=self.memory, k=4)
        chat = ChatSharedLLM(llm=self.llm, memory=self.memory, max_tokens=24)
        given = {
            "context": retriever | (lambda found: "\n\n".join(d.page_content for d in found)),
            "question": RunnablePassthrough(),
        }
        message = (given | prompt | chat).invoke(CHAIN)
        return {"text": message.text, "usage": dict(message.usage_metadata or {})}

    def llamaindex(self) -> dict[str, Any]:
        llm = LlamaIndexSharedLLM(llm=self.llm, memory=self.memory, max_tokens=24)
        response = TreeMemoryIndex(memory=self.memory, llm=llm).as_query_engine().query(CHAIN)
        return {
            "text": str(response),
            "sources": [node.node.ref_doc_id for node in response.source_nodes],
        }

    def everything(self) -> dict[str, Any]:
        out = {name: self.answer(name) for name in QUESTIONS}
        return {**out, "langchain": self.langchain(), "llamaindex": self.llamaindex()}


def kept(answer: Answer) -> dict[str, Any]:
    usage = answer.usage
    return {
        "text": answer.text,
        "citations": [
            [c.document or c.title, c.char_start, c.char_end, c.level, round(c.score, 2)]
            for c in answer.citations
        ],
        "tokens": [
            usage.context_tokens,
            usage.injected_tokens,
            usage.evidence_tokens,
            usage.prompt_tokens,
            usage.new_tokens,
        ],
    }


def main() -> None:
    import tempfile

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = Golden(Path(folder) / "memory").everything()
    lines = ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in found.items())
    FILE.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
