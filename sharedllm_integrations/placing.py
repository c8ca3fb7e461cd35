"""A question that stands before its documents, repeated behind them, where small models look.

Templates that put the question first (the best-known one of LangChain does) leave nothing but
"Answer:" behind the documents, and a small model then tends to answer that the documents do not
say (docs/integrations.md, docs/experiments.md).
"""

from __future__ import annotations

from collections.abc import Sequence

from sharedllm import query_of
from sharedllm_integrations.finding import Found, Parts

LONGEST = 1000  # characters of what is taken for a question and repeated
QUESTION = "\n\nQuestion: {question}"  # as the core asks behind documents
Turns = Sequence[tuple[str, Parts]]


def searched_for(turns: Turns) -> str:
    """The question in the last user turn, its documents left out."""
    asked = [parts for role, parts in turns if role == "user"]
    return query_of("\n".join(_texts(asked[-1]))) if asked else ""


def with_question_last(turns: Turns) -> tuple[list[tuple[str, Parts]], bool]:
    """`turns` with the question behind the documents, and whether it was put there.

    It is repeated if it stands in the last user turn in front of the last document, and not
    behind it. Nothing else is changed, and nothing is taken away.
    """
    out = list(turns)
    last = max((i for i, (role, _) in enumerate(out) if role == "user"), default=None)
    if last is None:
        return out, False
    role, parts = out[last]
    end = max((i for i, part in enumerate(parts) if isinstance(part, Found)), default=None)
    if end is None:
        return out, False
    question = searched_for(turns)
    before, after = (_plain(*_texts(some)) for some in (parts[:end], parts[end + 1 :]))
    wanted = _plain(question)
    if not wanted or len(wanted) > LONGEST or wanted not in before or wanted in after:
        return out, False
    repeated = QUESTION.format(question=question)
    rest = parts[end + 1 :]
    if after and not _texts(rest)[0].lstrip(" \t").startswith("\n"):
        repeated += "\n"
    out[last] = (role, [*parts[: end + 1], repeated, *rest])
    return out, True


def _texts(parts: Parts) -> list[str]:
    return [part for part in parts if isinstance(part, str)]


def _plain(*texts: str) -> str:
    """One line, with single blanks."""
    return " ".join(" ".join(texts).split())
