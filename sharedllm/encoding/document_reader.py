"""A text -> a document: tokens, chunks, context trees and search vectors."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sharedllm.config import TreeConfig
from sharedllm.encoding.document import Document, NodeCache, document_id
from sharedllm.encoding.lower_model import LowerModel
from sharedllm.encoding.model_lock import Turns
from sharedllm.progress import Progress, reporter
from sharedllm.text.pages import page_starts
from sharedllm.text.tokens import tokenize
from sharedllm.text.tree import cut, planted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class DocumentReader:
    """Reads texts for one model.

    Parameters
    ----------
    turns : the model is held while it reads
    node_cache_bytes : most bytes of encoded nodes kept for each document
    """

    def __init__(
        self,
        lower: LowerModel,
        tokenizer: PreTrainedTokenizerBase,
        tree: TreeConfig,
        turns: Turns,
        node_cache_bytes: int,
    ) -> None:
        self._lower, self._tokenizer, self._tree, self._turns = lower, tokenizer, tree, turns
        self._node_cache_bytes = node_cache_bytes

    def read(
        self,
        text: str,
        *,
        title: str,
        source: str,
        identity: tuple[object, ...],
        progress: Progress = None,
    ) -> Document:
        """Read `text` once; `identity` says by what it was read.

        Raises
        ------
        DocumentError
            If there is no text.
        """
        started = time.perf_counter()
        tokens = tokenize(text, self._tokenizer)
        chunks = cut(len(tokens), self._tree.chunk)
        spans = [(chunk.start, chunk.end) for chunk in chunks]
        with (
            reporter(progress, len(tokens), f"reading {title or 'document'}") as report,
            self._turns.model,
        ):
            vectors = self._lower.vectors(tokens.ids, spans, done=report)
        return Document(
            id=document_id(text, identity),
            title=title or source or "document",
            source=source,
            text=text,
            tokens=tokens,
            forest=planted(chunks, self._tree),
            vectors=vectors,
            nodes=NodeCache(self._node_cache_bytes),
            made_by=identity,
            pages=page_starts(text),
            remember_s=time.perf_counter() - started,
        )
