"""The query: the question of a user's message, and its ids and search vectors.

The templates of retrieval chains put a short question among sentences of instruction, whose words
are rare in most documents and would dominate the search. In 32K tokens the evidence was found for
57 % of questions in the best-known template, and for 98 % of the same questions alone
(docs/architecture.md, Search).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sharedllm.arguments import checked
from sharedllm.encoding.lower_model import LowerModel
from sharedllm.errors import InputError
from sharedllm.text.normalise import normalise
from sharedllm.text.tokens import Tokenizer, tokenize

# "Question: ...", "User query: ...", "The original query is as follows: ..."
_LABEL = re.compile(
    r"^[ \t>*#]*(?:[\w']+ ){0,2}(?:question|query|input|q)(?: is as follows| to answer)?[ \t]*:"
    r"[ \t*]*(?P<rest>.*)$",
    re.IGNORECASE | re.MULTILINE,
)
# The question ends before: an empty line, a rule, "Answer: ...", or a line that ends in a colon.
_NEXT = re.compile(
    r"[ \t]*$|[-=]{3,}|[ \t>*#]*(?:\w+ )?(?:answer|context|text|response)\b[^:]*:|[^.?!]*:[ \t]*$",
    re.IGNORECASE,
)


@checked()
def query_of(text: str) -> str:
    """Return the question in a user's message: the text after its last label, or all of it.

    A label begins a line, names a question, query or input, and ends in a colon. The question ends
    before the first line that is empty or announces something else.
    """
    for label in reversed(list(_LABEL.finditer(text))):
        lines = [label["rest"].strip()]
        for line in text[label.end() :].splitlines()[1:]:
            asks = line.rstrip().endswith("?")
            if _NEXT.match(line) or (lines[-1].endswith("?") and not asks):
                break
            lines.append(line.strip())
        asked = " ".join(filter(None, lines))
        if asked:
            return asked
    return text.strip()


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """A question to search for.

    Attributes
    ----------
    text : str
    ids : int32 (Q,)
    vectors : float32 (Q, hidden)
        Search vectors, like those of documents.
    """

    text: str
    ids: NDArray[np.int32]
    vectors: Tensor


def make_query(text: str, tokenizer: Tokenizer, lower: LowerModel) -> Query:
    """Make the query of `text`: its ids and search vectors.

    Raises
    ------
    InputError
        If `text` is empty or only white space.
    WindowError
        If it is longer than the model's trained window.
    """
    if not text.strip():
        raise InputError("the question is empty; ask something")
    ids = tokenize(text, tokenizer).ids
    vectors = lower.vectors(ids, [(0, len(ids))]).float()
    return Query(text=normalise(text).text, ids=ids, vectors=vectors)
