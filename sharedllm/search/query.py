"""What is searched for in a message that holds a question and instructions around it.

The templates of retrieval chains put one short question among sentences about answering. Words of
those are rare in most documents, so that a search for the whole message looks for them: in 32K
tokens the evidence was found for 57 % of questions in the best-known template, and for 98 % of the
same questions alone (docs/architecture.md, Search).
"""

from __future__ import annotations

import re

# "Question: ...", "User query: ...", "The original query is as follows: ..."
_LABEL = re.compile(
    r"^[ \t>*#]*(?:[\w']+ ){0,2}(?:question|query|input|q)(?: is as follows| to answer)?[ \t]*:"
    r"[ \t*]*(?P<rest>.*)$",
    re.IGNORECASE | re.MULTILINE,
)
# an empty line, a rule, "Answer: ..." and the like, or a line that only announces something
_NEXT = re.compile(
    r"[ \t]*$|[-=]{3,}|[ \t>*#]*(?:\w+ )?(?:answer|context|text|response)\b[^:]*:|[^.?!]*:[ \t]*$",
    re.IGNORECASE,
)


def query_of(text: str) -> str:
    """The question in the last user message: what stands behind its last label, or all of it.

    A label is the beginning of a line that ends in a colon and names a question, a query or an
    input. What follows ends with the first line that is empty, or announces something else.
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
