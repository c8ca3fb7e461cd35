"""Options that several commands have, with the defaults that the code really takes.

An adapter brings search settings of its own, so that a default may depend on it; those of the
shipped one are read from its manifest. Nothing here may wait for torch.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Annotated

import typer

from sharedllm.config import (
    COARSE_LEVELS,
    LEAVES,
    SCOPES,
    SCORERS,
    SELECTIONS,
    SearchConfig,
)
from sharedllm.errors import ConfigError

DEFAULT_NAME = "SmolLM2-135M-Instruct"
SHIPPED = Path(__file__).parent.parent / "checkpoints" / DEFAULT_NAME
DTYPE = "bfloat16 where the device multiplies it, else float32"
DEFAULT_MODEL = f"the embedded {DEFAULT_NAME}"


@functools.cache
def shipped_search() -> SearchConfig:
    """Return the search settings with the shipped adapter, the default of the default model."""
    text = (SHIPPED / "sharedllm.json").read_text(encoding="utf-8")
    return SearchConfig.from_dict(json.loads(text)["search"])


def default_of(name: str) -> str:
    """Describe the default of a field of SearchConfig, with the shipped adapter and without one."""
    plain, adapted = getattr(SearchConfig(), name), getattr(shipped_search(), name)
    if plain == adapted:
        return str(plain)
    return f"{adapted} with the default adapter, {plain} without one"


def parsed(
    name: str, given: str | None, kind: type[int] | type[float], also: str = ""
) -> float | None:
    """Parse a numeric option; typer's own message would not show the value given."""
    try:
        return None if given is None else kind(given)
    except ValueError as error:
        wanted = "a whole number" if kind is int else "a number"
        raise ConfigError(f"--{name} is {given!r}; it must be {wanted}{also}") from error


Encoding = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Encoding of the texts, such as cp1252 or gb18030.",
        show_default="recognised",
    ),
]
Scorer = Annotated[
    str | None,
    typer.Option(
        metavar="P",
        help=f"What scores a passage: {', '.join(SCORERS)}.",
        show_default=default_of("scorer"),
    ),
]
Selecting = Annotated[
    str | None,
    typer.Option(
        metavar="S",
        help=f"How passages are selected: {', '.join(SELECTIONS)}.",
        show_default=default_of("selection"),
    ),
]
ScopeOption = Annotated[
    str | None,
    typer.Option(
        "--scope",
        metavar="S",
        help=f"What is read: {', '.join(SCOPES)}. auto reads all of the documents for a summary, a "
        "list of everything, a count or a comparison, and the passages that search finds else.",
        show_default=default_of("scope"),
    ),
]
MaxChunks = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="Chunks of 1,024 tokens that a reading of the whole may read.",
        show_default="all",
    ),
]
MaxSeconds = Annotated[
    str | None,
    typer.Option(
        metavar="S", help="Seconds after which it reads no further.", show_default="no limit"
    ),
]
Leaves = Annotated[
    str | None,
    typer.Option(
        metavar="text|kv|auto",
        help=f"How selected passages enter the model: {', '.join(LEAVES)} (KV on a GPU where the "
        "memory stores it).",
        show_default=default_of("leaves"),
    ),
]
Coarse = Annotated[
    str | None,
    typer.Option(
        metavar="R",
        help=f"The compressed remainder: {', '.join(COARSE_LEVELS)}.",
        show_default=default_of("coarse"),
    ),
]
Sentences = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Tokens, at most, that complete a sentence on either side.",
        show_default=default_of("sentences"),
    ),
]
InSection = Annotated[
    str | None,
    typer.Option(
        "--section",
        metavar="S",
        help="Search only the sections of this number ('chapter 3', 3.2), title, or path ('Part II "
        "> Chapter 3').",
        show_default="all of the text",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(metavar="D", help="cpu, cuda or cuda:N.", show_default="cuda if there is one"),
]
Dtype = Annotated[
    str | None,
    typer.Option(metavar="TYPE", help="float32, bfloat16 or float16.", show_default=DTYPE),
]
MemoryDtype = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE",
        help="float32, bfloat16 or float16.",
        show_default=f"the memory's, or {DTYPE}",
    ),
]
Quantize = Annotated[
    str | None,
    typer.Option(
        metavar="4bit|8bit",
        help="Pack the weights of linear layers while loading (extra quantize); the rest, and KV, "
        "stay in --dtype.",
        show_default="not packed",
    ),
]
MemoryModel = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Short name (sharedllm models lists them), Hugging Face name, folder or .gguf file of "
        "a Llama, Mistral, Qwen2, Qwen3, Phi-3 or SmolLM2 model; name again the one that made the "
        "memory.",
        show_default=DEFAULT_MODEL,
    ),
]
AnsweringModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Short name (sharedllm models lists them), Hugging Face name, folder or .gguf file of "
        "any causal language model. One that KV cannot be injected into answers from text, and the "
        "embedded model searches.",
        show_default=DEFAULT_MODEL,
    ),
]
Reader = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="OpenAI-compatible API whose model answers, such as http://localhost:11434/v1; the "
        "key is SHAREDLLM_READER_KEY or OPENAI_API_KEY in the environment.",
        show_default="this machine",
    ),
]
ReaderModel = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Its model.", show_default="the only one there"),
]
ReaderWindow = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="Tokens that prompt and answer may have.",
        show_default="4096 for --reader, else what the model was trained on",
    ),
]
Thinking = Annotated[
    bool,
    typer.Option("--thinking", help="Let a model think before it answers; --json shows it."),
]
MemoryAdapter = Annotated[
    str | None,
    typer.Option(
        "--adapter",
        metavar="NAME",
        help="Folder or hub name of a trained adapter; none is the base model.",
        show_default="the default model's own",
    ),
]
