"""ReAct in the agent's own form, for models too small to keep to a form by themselves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.schemas import ONE_LINE, bounded

THOUGHT = 120  # characters
ARGUMENTS = 48  # tokens of a call's arguments, by which texts without bounds get some


def react_grammar(tools: Sequence[Any], *, arguments: int = ARGUMENTS) -> str:
    """A grammar of what LlamaIndex's ReAct agent understands: a thought, then a call or an answer.

    Give it to the model of the agent: ``LlamaIndexSharedLLM(grammar=react_grammar(tools))``. Every
    call then names one of the tools, with arguments that its schema allows.

    Parameters
    ----------
    tools : LlamaIndex's tools
    arguments : tokens for the arguments of a call; leave the model ``max_tokens`` for some 80 more

    Raises
    ------
    SetupError
        Without tools.
    """
    if not tools:
        raise SetupError("react_grammar() was given no tools; give those of the agent")
    names = [f"call_{index}" for index, _ in enumerate(tools)]
    lines = [
        'start: "Thought: " thought "\\n" step',
        f"thought: /[^\\n]{{1,{THOUGHT}}}/",
        f"step: answer | {' | '.join(names)}",
        r'answer: "Answer: " /(.|\n)+/',
    ]
    for name, tool in zip(names, tools, strict=True):
        schema = bounded(tool.metadata.get_parameters_dict(), arguments)
        head = f"Action: {tool.metadata.get_name()}\nAction Input: "
        lines.append(f"{name}: {json.dumps(head)} {name}_input")
        lines.append(f"{name}_input: %json {json.dumps({**schema, 'x-guidance': ONE_LINE})}")
    return "\n".join(lines)
