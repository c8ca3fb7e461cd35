"""Nodes of documents -> their KV, from the document's cache or encoded now."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
import torch

from sharedllm.config import TreeConfig
from sharedllm.encoding.document import Document
from sharedllm.encoding.kv import NodeKV
from sharedllm.encoding.lower_model import LowerModel, NodeRequest
from sharedllm.encoding.model_lock import Turns
from sharedllm.progress import Progress, reporter


def request(document: Document, node: int, ratio: float) -> NodeRequest:
    """What the lower model is asked for to get `node` at `ratio` tokens an entry."""
    forest = document.forest
    return NodeRequest(
        start=int(forest.start[node]),
        end=int(forest.end[node]),
        ratio=float(ratio),
        context=forest.before(node),
    )


class NodeEncoder:
    """Encodes nodes on demand and keeps them with their document.

    Parameters
    ----------
    turns : the model is given up between batches
    """

    def __init__(self, lower: LowerModel, tree: TreeConfig, turns: Turns) -> None:
        self._lower, self._tree, self._turns = lower, tree, turns

    def encode(
        self, document: Document, requests: Sequence[NodeRequest], progress: Progress = None
    ) -> dict[NodeRequest, NodeKV]:
        """The KV of every one of `requests`."""
        out: dict[NodeRequest, NodeKV] = {}
        missing: list[NodeRequest] = []
        for wanted in dict.fromkeys(requests):
            kv = document.nodes.get(wanted) or self.from_finer(document, wanted)
            if kv is None:
                missing.append(wanted)
            else:
                out[wanted] = kv
        tokens = sum(r.end - r.start for r in missing)
        with reporter(progress, tokens, f"encoding {document.title}") as report:
            encoded = self._lower.encode(document.tokens.ids, missing, done=report)
            while True:
                with self._turns.model, torch.inference_mode():
                    pair = next(encoded, None)
                if pair is None:
                    return out
                out[pair[0]] = pair[1]
                document.nodes.put(*pair)

    def from_finer(self, document: Document, wanted: NodeRequest) -> NodeKV | None:
        """Coarser roots are every second, fourth ... entry of the tree's own."""
        own = float(self._tree.root_ratio)
        steps = wanted.ratio / own
        if steps <= 1 or not float(steps).is_integer():
            return None
        finer = document.nodes.get(dataclasses.replace(wanted, ratio=own))
        if finer is None:
            return None
        step, length = int(steps), len(finer)
        kept = np.minimum(np.arange(1, -(-length // step) + 1) * step, length) - 1
        index = torch.from_numpy(kept).to(finer.keys.device)
        return NodeKV(keys=finer.keys[:, :, index], values=finer.values[:, :, index])

    def encode_roots(
        self, document: Document, progress: Progress = None, *, background: bool = False
    ) -> Future[None]:
        """Encode the coarse level: every chunk's root at the tree's ratio."""
        if background:
            return self._later(document, progress)
        self.encode(document, self._roots(document), progress)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def encode_roots_at_once(self, document: Document) -> None:
        """:meth:`encode_roots` on a GPU, where it takes moments, if the document can keep them."""
        if self._lower.device.type != "cuda":
            return
        roots = self._roots(document)
        first = self.encode(document, roots[:1])[roots[0]]
        if first.nbytes * len(roots) < document.nodes.limit:
            self.encode(document, roots)

    def _roots(self, document: Document) -> list[NodeRequest]:
        ratio = self._tree.root_ratio
        return [request(document, int(root), ratio) for root in document.forest.roots]

    def _later(self, document: Document, progress: Progress) -> Future[None]:
        """:meth:`encode_roots` in a thread of its own, which does not keep the process alive.

        It rests while a question is open; one that comes waits for a few chunks at most.
        """
        done: Future[None] = Future()
        roots = self._roots(document)
        step = max(1, self._lower.at_once // (4 * self._tree.chunk))

        def work() -> None:
            try:
                with reporter(progress, len(document), f"encoding {document.title}") as report:
                    for at in range(0, len(roots), step):
                        self._turns.wait()
                        self.encode(document, roots[at : at + step])
                        report(sum(r.end - r.start for r in roots[at : at + step]))
            except BaseException as error:  # whoever waits for the future has to see it
                done.set_exception(error)
            else:
                done.set_result(None)

        threading.Thread(target=work, name="sharedllm-encode", daemon=True).start()
        return done
