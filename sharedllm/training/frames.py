"""How people put documents and a question into a prompt: training sees them all.

The library's own frame is half of the examples; the others are those of retrieval chains, where
the question often stands before the documents, or the documents in the system message.
"""

from __future__ import annotations

import random

from sharedllm.encoding.document import Document
from sharedllm.generation.prompt import Conversation, Message, converse
from sharedllm.text.tokens import Tokenizer

OWN = 0.5  # the share of the library's own frame
HERE = "{documents}"
# system message (may be empty), user message; documents and question stand where they are named
FRAMES: tuple[tuple[str, str], ...] = (
    ("", "{documents}\n\n{question}"),
    ("", "{documents}\n\nQuestion: {question}\nAnswer:"),
    ("", "{question}\n\n{documents}"),
    ("", "Question: {question}\n\nContext:\n{documents}\n\nAnswer:"),
    (
        "",
        "Answer the question based only on the following context:\n{documents}\n\n"
        "Question: {question}\n",
    ),
    (
        "",
        "You are an assistant for question-answering tasks. Use the following pieces of retrieved "
        "context to answer the question. If you don't know the answer, just say that you don't "
        "know. Keep the answer concise.\nQuestion: {question}\nContext: {documents}\nAnswer:",
    ),
    (
        "",
        "Context information is below.\n---------------------\n{documents}\n---------------------\n"
        "Given the context information and not prior knowledge, answer the query.\n"
        "Query: {question}\nAnswer:",
    ),
    (
        "Use the given context to answer the question. Be concise.\n\nContext: {documents}",
        "{question}",
    ),
    ("You are a helpful assistant. These documents are at hand:\n\n{documents}", "{question}"),
    ("Answer in as few words as possible.", "{documents}\n\n{question}"),
)


def framed(
    question: str,
    document: Document,
    tokenizer: Tokenizer,
    rng: random.Random,
) -> Conversation:
    """`question` about `document` in the library's own frame, or in one of the others."""
    if rng.random() < OWN:
        return converse(question, [document], tokenizer)
    system, user = rng.choice(FRAMES)
    turns = [("system", system), ("user", user)] if system else [("user", user)]
    messages = [
        {"role": role, "content": _parts(content, question, document)} for role, content in turns
    ]
    return converse(messages, (), tokenizer)


def _parts(content: str, question: str, document: Document) -> list[Message]:
    out: list[Message] = []
    for at, text in enumerate(content.split(HERE)):
        if at:
            out.append({"type": "document", "document": document})
        if text:
            out.append({"type": "text", "text": text.replace("{question}", question)})
    return out
