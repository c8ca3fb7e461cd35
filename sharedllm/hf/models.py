"""Models with a short name: ``--model qwen3-1.7b``. ``sharedllm models`` lists them.

To add one, add it to :data:`MODELS`, its configuration to ``tests/hf/published.py``, and the row
that the test of the documents then prints to ``docs/howto/own-model.md``. Nothing here may wait for
torch.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

# bits of a packed weight, with the scales of its block: bitsandbytes' NF4 with scales that are
# quantised themselves, its int8, and MXFP4 as it is published
BITS = {"4bit": 4.13, "8bit": 8.02, "MXFP4": 4.25}
ROOM = 2 << 30  # bytes beside the weights: documents, KV and what a forward pass needs
NEAR = 0.75  # how similar a word has to be to a short name to be taken for a slip of it
GIB = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownModel:
    """A model with a short name.

    Attributes
    ----------
    name : short name
    hub : its name on the hub
    licence : str
    kind : model type of its language model, which decides if KV can be injected
    parameters : int
    packed : those of them that quantisation packs; embeddings, output and norms stay as they are
    context : tokens of prompt and answer that it is used with
    gated : the hub asks for an account that has accepted its terms
    comes_in : form in which its weights are published, if they are quantised already
    """

    name: str
    hub: str
    licence: str
    kind: str
    parameters: int
    packed: int
    context: int
    gated: bool = False
    comes_in: str = ""

    def weight_bytes(self, itemsize: int, form: str = "") -> int:
        """Return the bytes of its weights.

        Parameters
        ----------
        itemsize : bytes of a weight that is not packed
        form : a key of :data:`BITS`; empty packs nothing
        """
        return weight_bytes(self.parameters, self.packed, itemsize, form)

    @property
    def in_four_bits(self) -> str:
        """The key of :data:`BITS` with which it takes four bits."""
        return self.comes_in or "4bit"

    def way(self, memory: int, itemsize: int, *, cuda: bool) -> str | None:
        """Return the options with which it fits a memory; None if it fits with none.

        Parameters
        ----------
        memory : bytes, of which :data:`ROOM` is kept for other things
        itemsize : bytes of the dtype that is taken without --dtype
        cuda : it is a GPU's; a processor unpacks weights that are published quantised
        """
        quantize = "" if self.comes_in else "--quantize 4bit"
        ways = [("", itemsize, self.comes_in if cuda else ""), ("--dtype bfloat16", 2, "")]
        if quantize:
            ways.append((quantize, itemsize, "4bit"))
            ways.append((f"{quantize} --dtype bfloat16", 2, "4bit"))
        for options, size, form in ways:
            if self.weight_bytes(size, form) + ROOM <= memory:
                return options
        return None


def weight_bytes(parameters: int, packed: int, itemsize: int, form: str = "") -> int:
    """Return the bytes of weights; see :meth:`KnownModel.weight_bytes`."""
    if not form:
        return parameters * itemsize
    return (parameters - packed) * itemsize + int(packed * BITS[form] / 8)


MODELS = (
    KnownModel(
        name="qwen3-1.7b",
        hub="Qwen/Qwen3-1.7B",
        licence="Apache-2.0",
        kind="qwen3",
        parameters=1_720_574_976,
        packed=1_409_286_144,
        context=40_960,
    ),
    KnownModel(
        name="qwen3-4b",
        hub="Qwen/Qwen3-4B-Instruct-2507",
        licence="Apache-2.0",
        kind="qwen3",
        parameters=4_022_468_096,
        packed=3_633_315_840,
        context=262_144,
    ),
    KnownModel(
        name="qwen3-8b",
        hub="Qwen/Qwen3-8B",
        licence="Apache-2.0",
        kind="qwen3",
        parameters=8_190_735_360,
        packed=6_945_767_424,
        context=40_960,
    ),
    KnownModel(
        name="qwen3.5-4b",
        hub="Qwen/Qwen3.5-4B",
        licence="Apache-2.0",
        kind="qwen3_5_text",
        parameters=4_205_751_296,  # the language model; its other parts are not loaded
        packed=3_569_090_560,
        context=262_144,
    ),
    KnownModel(
        name="llama3.2-3b",
        hub="meta-llama/Llama-3.2-3B-Instruct",
        licence="Llama 3.2",
        kind="llama",
        parameters=3_212_749_824,
        packed=2_818_572_288,
        context=131_072,
        gated=True,
    ),
    KnownModel(
        name="gemma3-1b",
        hub="google/gemma-3-1b-it",
        licence="Gemma",
        kind="gemma3_text",
        parameters=999_885_952,
        packed=697_761_792,
        context=32_768,
        gated=True,
    ),
    KnownModel(
        name="gemma3-4b",
        hub="google/gemma-3-4b-it",
        licence="Gemma",
        kind="gemma3_text",
        parameters=4_300_079_472,
        packed=3_619_713_024,
        context=131_072,
        gated=True,
    ),
    KnownModel(
        name="smollm3-3b",
        hub="HuggingFaceTB/SmolLM3-3B",
        licence="Apache-2.0",
        kind="smollm3",
        parameters=3_075_098_624,
        packed=2_812_280_832,
        context=65_536,
    ),
    KnownModel(
        name="mistral-7b",
        hub="mistralai/Mistral-7B-Instruct-v0.3",
        licence="Apache-2.0",
        kind="mistral",
        parameters=7_248_023_552,
        packed=6_979_321_856,
        context=32_768,
    ),
    KnownModel(
        name="phi4-mini",
        hub="microsoft/Phi-4-mini-instruct",
        licence="MIT",
        kind="phi3",
        parameters=3_836_021_760,
        packed=3_221_225_472,
        context=4_096,  # the window in which its rotation does not depend on the length
    ),
    KnownModel(
        name="granite3.3-2b",
        hub="ibm-granite/granite-3.3-2b-instruct",
        licence="Apache-2.0",
        kind="granite",
        parameters=2_533_539_840,
        packed=2_432_696_320,
        context=131_072,
    ),
    KnownModel(
        name="gpt-oss-20b",
        hub="openai/gpt-oss-20b",
        licence="Apache-2.0",
        kind="gpt_oss",
        parameters=20_914_757_184,
        packed=19_110_297_600,  # its experts
        context=131_072,
        comes_in="MXFP4",
    ),
)
BY_NAME = {model.name: model for model in MODELS}
BY_HUB = {model.hub: model for model in MODELS}


def hub_name(given: str) -> str:
    """Return the hub name of a short name; anything else is returned as it is.

    Capitals do not count. A folder of that name in the current directory wins if it holds a model.
    """
    model = BY_NAME.get(given.lower())
    if model is None:
        return given
    if (Path(given) / "config.json").is_file():
        logger.info("%s is the folder of that name here, not %s", given, model.hub)
        return given
    return model.hub


def is_slip(name: str) -> bool:
    """Tell a word that is no short name, and so near one that it was meant to be one."""
    word = name.lower()
    known = word in BY_NAME or "/" in name or os.sep in name
    return not known and bool(difflib.get_close_matches(word, BY_NAME, 1, NEAR))


def nearest(name: str, others: Iterable[str] = ()) -> list[str]:
    """Return up to three names that are like `name`: short names, hub names, and `others`."""
    longer = BY_HUB if "/" in name else ()  # beside their short names they would come twice
    more = (other for other in others if other not in BY_HUB)
    known = {known.lower(): known for known in (*more, *longer, *BY_NAME)}
    return [known[word] for word in difflib.get_close_matches(name.lower(), known, 3, 0.55)]


def gib(size: float) -> str:
    """Show bytes in GiB."""
    return f"{size / GIB:.1f} GiB"
