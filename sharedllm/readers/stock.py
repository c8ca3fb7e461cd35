"""Any causal language model of transformers as a reader: its own attention, its own cache.

Nothing here depends on the architecture. The model runs in ``generate``, which gives recurrent and
hybrid models the cache that they need; our choice of tokens goes in as a logits processor.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from sharedllm.config import GenerationConfig, InjectionConfig, SearchConfig
from sharedllm.encoding.document import Document
from sharedllm.encoding.document_encoder import DocumentEncoder, fingerprint
from sharedllm.errors import UnsupportedModelError, WindowError
from sharedllm.generation.assemble import AFTER_EVIDENCE, Plan, require_window
from sharedllm.generation.logits_processors import Grammars, Lists, Row, TokenChooser
from sharedllm.generation.prompt import Asked, Conversation, Literal, converse, part_ids
from sharedllm.generation.row_text import RowText
from sharedllm.generation.tool_format import ToolFormat, read_tool_format
from sharedllm.hf.architectures import declared_window, parameter_device
from sharedllm.hf.loading import end_ids, load, resolve_device, resolve_dtype
from sharedllm.injection.positions import Prompt
from sharedllm.progress import Progress
from sharedllm.readers.reader import require_unused, text_only
from sharedllm.text.tokens import Tokenizer, special_tokens, tokenize

WINDOW = 8192  # tokens, for models that were trained on no number of positions
SAMPLE = 2000  # characters by which two tokenizers are compared
WHY = "its architecture is not one that KV can be injected into, so it reads text only"


def require_stock(
    name: object, attention: str, adapter: object, injection: InjectionConfig | None
) -> None:
    """Refuse what only a model of a supported family can be loaded with.

    Raises
    ------
    UnsupportedModelError
    """
    require_unused(
        name,
        WHY,
        attention=None if attention == "auto" else attention,
        adapter=None if adapter == "default" else adapter,
        injection=injection and injection.mode,
    )


class StockReader:
    """A causal language model as a reader; see :class:`~sharedllm.readers.reader.Reader`.

    Answers of a batch are made one after another: padding would change those of some architectures.

    Parameters
    ----------
    model, tokenizer : of transformers
    scout_tokenizer : of the encoder, which counts evidence
    window : tokens that prompt and answer must fit; None is what the model was trained on, or 8,192
        where it names no number
    """

    holds_grammar, shares, judges = True, False, False

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        scout_tokenizer: Tokenizer,
        name: str = "",
        window: int | None = None,
        load_s: float = 0.0,
    ) -> None:
        self.model, self.tokenizer, self.load_s = model, tokenizer, load_s
        self.name = name or str(getattr(model.config, "_name_or_path", "") or "model")
        self.window = window or declared_window(model.config, tokenizer) or WINDOW
        self._scout_tokenizer = scout_tokenizer
        self._text = RowText(tokenizer, end_ids(model, tokenizer))
        self._grammars, self._lists = Grammars(tokenizer), Lists(tokenizer)
        self._running = threading.Lock()

    @classmethod
    def load(
        cls,
        name_or_path: str | os.PathLike[str] | None,
        scout: DocumentEncoder,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        window: int | None = None,
        **options: Any,
    ) -> Self:
        """Load a model of any architecture that transformers has a causal language model of.

        Parameters
        ----------
        scout : reads and searches the documents

        Raises
        ------
        ModelNotFoundError, UnsupportedModelError, ConfigError
        """
        started = time.perf_counter()
        where = resolve_device(device)
        model, tokenizer = load(
            name_or_path, device=where, dtype=resolve_dtype(dtype, where), **options
        )
        return cls(
            model,
            tokenizer,
            scout_tokenizer=scout.tokenizer,
            name="" if name_or_path is None else os.fspath(name_or_path),
            window=window,
            load_s=time.perf_counter() - started,
        )

    @property
    def identity(self) -> tuple[object, ...]:
        """Weights, tokenizer and type of numbers."""
        return (*fingerprint(self.model, self.tokenizer), str(self.model.dtype))

    @cached_property
    def tool_format(self) -> ToolFormat | None:
        """The form of tool calls in the model's chat template; None if it shows no tools."""
        return read_tool_format(self.tokenizer)

    def reach(self) -> None:
        """Do nothing: it is loaded."""

    def settled(self, search: SearchConfig, generation: GenerationConfig) -> SearchConfig:
        """Refuse settings that need KV or an adapter."""
        return text_only(self.name, WHY, search, generation)

    def converse(
        self, asked: Asked, documents: Sequence[Document], generation: GenerationConfig
    ) -> Conversation:
        """Put documents and messages into the model's chat format."""
        thinking, refuse = generation.thinking, not generation.grammar
        return converse(asked, documents, self.tokenizer, thinking=thinking, refuse=refuse)

    def room(self, conversation: Conversation, new_tokens: int) -> int:
        """Return what the window leaves for evidence, in the encoder's tokens."""
        room = require_window(conversation, self.tokenizer, self.window, new_tokens)
        for document in conversation.documents:
            sample = document.text[:SAMPLE]
            if sample.strip():
                theirs = len(part_ids(sample, self.tokenizer))
                return room * len(part_ids(sample, self._scout_tokenizer)) // max(1, theirs)
        return room

    def prompt(self, plan: Plan, new_tokens: int, progress: Progress = None) -> Prompt:
        """Put the selected evidence in its place, as text.

        Raises
        ------
        WindowError
        UnsupportedModelError
            If the tokenizer is not the model's.
        """
        special, texts = special_tokens(self.tokenizer), iter(plan.texts())
        parts: list[str | Literal] = []
        for part in plan.conversation.parts:
            given: str | Literal = part if not isinstance(part, Document) else ""
            if isinstance(part, Document) and (text := next(texts)):
                spells = any(token in text for token in special)
                parts += [Literal(text)] if spells else [text]
                given = AFTER_EVIDENCE
            parts.append(given)
        ids = _ids(parts, self.tokenizer)
        if len(ids) + new_tokens > self.window:
            raise WindowError(
                f"the prompt needs {len(ids) + new_tokens} tokens ({new_tokens} of them to be "
                f"generated), but the window of {self.name!r} has {self.window}: shorten the "
                "question, or lower budget or max_new_tokens"
            )
        known = int(self.model.get_input_embeddings().weight.shape[0])
        if max(ids) >= known:
            raise UnsupportedModelError(
                f"the tokenizer of {self.name!r} gives token {max(ids)}, and the model has "
                f"{known}: they are of different models"
            )
        reads = bool(plan.conversation.documents)
        return Prompt(text=(tuple(ids),), reads=reads, thinking=plan.ends_in_thought)

    def run(
        self, prompts: Sequence[Prompt], config: GenerationConfig, rows: list[Row]
    ) -> Iterator[tuple[int, str]]:
        """Run the prompts one after another, each in a thread, which ends with this iterator."""
        for index, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
            row.thinking = prompt.thinking and not config.grammar
            answering = _Answering(row, config, self._text, TokenChooser(config, self._lists))
            thread = threading.Thread(
                target=self._work, args=(prompt, config, answering), name="sharedllm-read"
            )
            thread.daemon = True
            thread.start()
            try:
                for piece in answering:
                    if piece is not None:
                        yield index, piece
                    elif index == 0:
                        yield -1, ""
            finally:
                answering.dropped.set()
                thread.join()

    def _work(self, prompt: Prompt, config: GenerationConfig, answering: _Answering) -> None:
        """Generate one answer; what it raises is raised again where the pieces are taken."""
        try:
            with self._running, torch.inference_mode():
                if not answering.dropped.is_set():
                    self._generate(prompt, config, answering)
        except BaseException as error:
            answering.pieces.put(error)
        else:
            answering.pieces.put(_END)

    def _generate(self, prompt: Prompt, config: GenerationConfig, answering: _Answering) -> None:
        ids = torch.tensor([prompt.text[0]], device=parameter_device(self.model))
        if config.grammar:
            answering.start = lambda width: self._grammars.start(config.grammar, width)
        ends = sorted(self._text.end_ids)
        options = {
            "attention_mask": torch.ones_like(ids),
            "max_new_tokens": config.max_new_tokens,
            "eos_token_id": ends or None,
            "pad_token_id": ends[0] if ends else 0,
            # the settings of answers are ours; what the model's own file says of them is not used
            "do_sample": False,
            "num_beams": 1,
            "temperature": None,
            "top_k": None,
            "top_p": None,
            "repetition_penalty": 1.0,
            "logits_processor": [answering.choose],
            "stopping_criteria": [answering.is_done],
            "streamer": answering,
        }
        self.model.generate(ids, **options)


_END = object()


class _Answering(Iterator[str | None]):
    """One answer that grows in ``generate``: its processor, its streamer and its end.

    It gives pieces of text, and None when the prompt has been read.
    """

    def __init__(
        self, row: Row, config: GenerationConfig, text: RowText, chooser: TokenChooser
    ) -> None:
        self.pieces: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.dropped = threading.Event()
        self.start: Any = None
        self._row, self._config, self._text, self._chooser = row, config, text, chooser
        self._begun = self._prompted = False

    def __next__(self) -> str | None:
        piece = self.pieces.get()
        if piece is _END:
            raise StopIteration
        if isinstance(piece, BaseException):
            raise piece
        given: str | None = piece
        return given

    def choose(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Leave one token possible: the one that our own settings choose."""
        if not self._begun:
            self._begun = True
            self.pieces.put(None)
            if self.start is not None:
                self._chooser.constraints = [self.start(scores.shape[-1])]
        (token,) = self._chooser(scores, [self._row])
        chosen = torch.full_like(scores, -torch.inf)
        chosen[:, token] = 0
        return chosen

    def put(self, value: Tensor) -> None:
        """Take the prompt, then token by token, as ``generate`` gives them to a streamer."""
        if not self._prompted:
            self._prompted = True
            return
        piece = self._text.advance(self._row, int(value.reshape(-1)[0]), self._config)
        if piece or self._row.reasoning:
            self.pieces.put(piece)

    def end(self) -> None:
        """Do nothing; the thread says when it ends."""

    def is_done(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """End the answer where it is complete, or nobody waits for it."""
        done = self._row.finish_reason is not None or self.dropped.is_set()
        return torch.full((input_ids.shape[0],), done, device=input_ids.device)


def _ids(parts: Sequence[str | Literal], tokenizer: Tokenizer) -> list[int]:
    """Return the token ids of parts; texts side by side are tokenised as one."""
    ids: list[int] = []
    held = ""
    for part in (*parts, Literal("")):
        if isinstance(part, str):
            held += part
            continue
        ids += part_ids(held, tokenizer) if held else []
        held = ""
        ids += list(map(int, tokenize(part.text, tokenizer).ids)) if part.text.strip() else []
    return ids
