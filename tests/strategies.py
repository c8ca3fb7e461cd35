"""What the property tests draw from: forests, scores, settings, texts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from sharedllm import SearchConfig, TreeConfig
from sharedllm.text.tree import Forest, cut, grow

LENGTHS = st.integers(min_value=1, max_value=200)
CHUNKS = st.integers(min_value=1, max_value=70)
HEIGHTS = st.integers(min_value=0, max_value=4)
RATIOS = st.sampled_from([1.0, 1.5, 2.0, 4.0, 8.0, 32.0])

# Text with several bytes a character, joined emoji, combining marks, line ends of all kinds.
UNICODE = st.text(
    alphabet=st.one_of(
        st.sampled_from(
            "ab \n\r\t.\u00e9e\u0301\u00df\u4e2d\u05d0\u200d\U0001f600\U0001f469\ufeff\x00"
        ),
        st.characters(exclude_categories=["Cs"]),
    ),
    min_size=1,
    max_size=60,
).filter(lambda text: bool(text.strip()))


@dataclass(frozen=True)
class Problem:
    """What a search is given."""

    forests: list[Forest]
    scores: list[NDArray[np.float32]]
    tree: TreeConfig
    overhead: list[int]

    def cost(self, document: int, node: int, ratio: float, as_text: bool) -> int:
        forest = self.forests[document]
        length = int(forest.end[node] - forest.start[node])
        return length + self.overhead[document] if as_text else int(-(-length // ratio))


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    height = draw(HEIGHTS)
    ratios = tuple(draw(RATIOS) for _ in range(height))
    tree = TreeConfig(chunk=draw(CHUNKS), height=height, ratios=ratios, root_ratio=draw(RATIOS))
    lengths = draw(st.lists(LENGTHS, min_size=1, max_size=3))
    forests = [grow(cut(n, tree.chunk), height) for n in lengths]
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    distinct = draw(st.booleans())  # else many ties
    scores = [
        (random.normal(size=len(f)) if distinct else random.integers(0, 3, len(f))).astype("f4")
        for f in forests
    ]
    return Problem(forests, scores, tree, [draw(st.integers(0, 5)) for _ in forests])


@st.composite
def searches(draw: st.DrawFn) -> SearchConfig:
    return SearchConfig(
        selection=draw(st.sampled_from(["budget", "path"])),
        leaves=draw(st.sampled_from(["text", "kv"])),
        coarse=draw(st.sampled_from(["none", "ready", "all"])),
        coarse_share=draw(st.sampled_from([0.0, 0.3, 0.5, 1.0])),
        budget=draw(st.integers(1, 400)),
        neighbours=draw(st.sampled_from([(), (0.3,), (0.5, 0.25)])),
    )
