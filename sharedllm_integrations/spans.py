"""Texts and a query -> the spans of the texts that answer it, under one budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sharedllm_integrations.engine import Engine
from sharedllm_integrations.finding import Found
from sharedllm_integrations.handles import handle_id, neutral
from sharedllm_integrations.names import name_of
from sharedllm_integrations.resolving import Resolver
from sharedllm_integrations.trees import process_cache
from sharedllm_integrations.turns import Given

if TYPE_CHECKING:
    from sharedllm import Citation


def selected(
    engine: Engine, texts: Sequence[Given], query: str, options: Mapping[str, Any]
) -> list[tuple[Citation, int]]:
    """The spans of `texts` that answer `query`, best first, each with the index of its text.

    Texts that are empty are left out; equal texts count once.

    Parameters
    ----------
    options : fields of SearchConfig
    """
    tenant = engine.settings.tenant
    first: dict[str, int] = {}
    for index, given in enumerate(texts):
        if given.text.strip():
            first.setdefault(handle_id(neutral(given.text), tenant), index)
    if not first:
        return []
    resolver = Resolver(
        llm=engine.llm, cache=process_cache(), memory=engine.memory, tenant=tenant, keep=False
    )
    trees: list[Any] = []
    origin: dict[str, int] = {}
    for handle, index in first.items():
        text = neutral(texts[index].text)
        own = {"title": texts[index].title, "source": texts[index].source}
        found = Found(handle=handle, text=text, path="given", title=name_of(own, text))
        for tree in resolver.trees(found, query)[0]:
            trees.append(tree)
            origin[tree.id] = index
    prepared = engine.llm.prepare(query, trees, max_new_tokens=1, **options)
    return [(citation, origin[citation.document]) for citation in prepared.citations]
