"""What LangChain's map_reduce and refine chains do, and BM25 windows in one prompt, in batches.

The prompts are those of langchain-classic 1.0 for chat models (MIT licence); a test compares them.
The steps of different questions are independent, so that refine, which reads chunk after chunk,
runs for all questions side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sharedllm import GenerationConfig, SharedLLM
from sharedllm.encoding.document import Document
from sharedllm.evaluation.baselines import BM25Ranker, windows_of
from sharedllm.generation.assemble import Plan
from sharedllm.generation.logits_processors import Row
from sharedllm.generation.prompt import Message, is_refusal, parse
from sharedllm.search.citations import BETWEEN
from sharedllm.text.tree import cut

CHUNK = 1024  # tokens
JOINED = 3000  # tokens of parts that are combined at once: token_max of the chains
MAP_TOKENS = 96
RULE = "______________________"
MAP = (
    "Use the following portion of a long document to see if any of the text is relevant to answer "
    f"the question.\nReturn any relevant text verbatim.\n{RULE}\n{{context}}"
)
COMBINE = (
    "Given the following extracted parts of a long document and a question, create a final answer."
    "\nIf you don't know the answer, just say that you don't know. Don't try to make up an answer."
    f"\n{RULE}\n{{summaries}}"
)
FIRST = (
    "Context information is below.\n------------\n{context_str}\n------------\n"
    "Given the context information and not prior knowledge, answer any questions"
)
REFINE = (
    "We have the opportunity to refine the existing answer (only if needed) with some more context "
    "below.\n------------\n{context_str}\n------------\nGiven the new context, refine the original "
    "answer to better answer the question. If the context isn't useful, return the original answer."
)
SUMMARY = 'Write a concise summary of the following:\n\n\n"{text}"\n\n\nCONCISE SUMMARY:'
REFINE_SUMMARY = (
    "Your job is to produce a final summary.\nWe have provided an existing summary up to a certain "
    "point: {existing_answer}\nWe have the opportunity to refine the existing summary (only if "
    "needed) with some more context below.\n------------\n{text}\n------------\nGiven the new "
    "context, refine the original summary.\nIf the context isn't useful, return the original "
    "summary."
)


@dataclass(kw_only=True, slots=True)
class Told:
    """A chain's answer, and the model's tokens that it took."""

    text: str = ""
    prompt_tokens: int = 0
    new_tokens: int = 0


class Model:
    """The reader of `llm`, with its adapter, on prompts of plain text."""

    def __init__(self, llm: SharedLLM, batch: int) -> None:
        self.llm, self._batch = llm, batch

    def count(self, text: str) -> int:
        return len(self.llm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def say(
        self, messages: Sequence[Sequence[Message]], new_tokens: int, told: Sequence[Told]
    ) -> list[str]:
        """Answers to `messages`; their tokens are added to `told`."""
        generation = GenerationConfig(max_new_tokens=new_tokens)
        prompts = []
        for one in messages:
            conversation = self.llm.reader.converse(parse(list(one)), (), generation)
            plan = Plan(conversation=conversation, windows=(), pasted=(), injected=())
            prompts.append(replace(self.llm.reader.prompt(plan, new_tokens), reads=True))
        order = sorted(range(len(prompts)), key=lambda at: prompts[at].text_tokens)
        out = [""] * len(prompts)
        for first in range(0, len(order), self._batch):
            chosen = order[first : first + self._batch]
            rows = [Row() for _ in chosen]
            for _ in self.llm.reader.run([prompts[at] for at in chosen], generation, rows):
                pass
            for at, row in zip(chosen, rows, strict=True):
                out[at] = row.text.strip()
                told[at].prompt_tokens += prompts[at].text_tokens
                told[at].new_tokens += len(row.ids)
        return out


def user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def asked(system: str, question: str) -> list[Message]:
    return [{"role": "system", "content": system}, *user(question)]


def chunks_of(document: Document) -> list[str]:
    return [document.text_of(c.start, c.end) for c in cut(len(document), CHUNK)]


def map_reduce(
    model: Model, chunks: Sequence[str], question: str, new_tokens: int, *, summary: bool
) -> Told:
    """Each chunk alone, then the answers together, in groups where they are too long."""
    told = Told()

    def read(texts: Sequence[str], template: str, tokens: int) -> list[str]:
        prompts = [
            user(template.format(text=text))
            if summary
            else asked(template.format(context=text, summaries=text), question)
            for text in texts
        ]
        return model.say(prompts, tokens, [told] * len(prompts))

    parts = read(chunks, SUMMARY if summary else MAP, MAP_TOKENS)
    parts = [part for part in parts if part and not is_refusal(part)] or [""]
    combine = SUMMARY if summary else COMBINE
    while len(groups := _groups(model, parts)) > 1 and len(groups) < len(parts):
        parts = read(["\n\n".join(group) for group in groups], combine, MAP_TOKENS)
    (told.text,) = read(["\n\n".join(groups[0])], combine, new_tokens)
    return told


def _groups(model: Model, parts: Sequence[str]) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    taken = 0
    for part in parts:
        own = model.count(part)
        if groups[-1] and taken + own > JOINED:
            groups.append([])
            taken = 0
        groups[-1].append(part)
        taken += own
    return groups


def refine(
    model: Model,
    texts: Sequence[Sequence[str]],
    questions: Sequence[str],
    new_tokens: int,
    *,
    summary: bool,
) -> list[Told]:
    """Chunk after chunk with the answer so far, for all questions side by side."""
    out = [Told() for _ in texts]
    for step in range(max(map(len, texts))):
        going = [at for at, chunks in enumerate(texts) if step < len(chunks)]
        prompts = []
        for at in going:
            chunk, so_far = texts[at][step], out[at].text
            if summary:
                first = SUMMARY.format(text=chunk)
                later = REFINE_SUMMARY.format(existing_answer=so_far, text=chunk)
                prompts.append(user(later if step else first))
            elif step == 0:
                prompts.append(asked(FIRST.format(context_str=chunk), questions[at]))
            else:
                prompts.append(
                    [
                        *user(questions[at]),
                        {"role": "assistant", "content": so_far or "-"},
                        *user(REFINE.format(context_str=chunk)),
                    ]
                )
        said = model.say(prompts, new_tokens, [out[at] for at in going])
        for at, text in zip(going, said, strict=True):
            out[at].text = text
    return out


def bm25(model: Model, document: Document, question: str, tokens: int, new_tokens: int) -> Told:
    """The best windows of 256 tokens, together at most `tokens`, in one prompt."""
    told = Told()
    spans = windows_of(document)
    best = np.argsort(-BM25Ranker().score(question, document), kind="stable")
    kept = sorted(best[: max(1, tokens // 256)].tolist())
    text = BETWEEN.join(document.text_of(*spans[at]) for at in kept)
    prompt = asked(FIRST.format(context_str=text), question)
    (told.text,) = model.say([prompt], new_tokens, [told])
    return told
