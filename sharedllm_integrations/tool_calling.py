"""Tools for models that know no tool format: described in the prompt, calls are parsed.

Tools are dicts as OpenAI spells them: ``{"function": {"name", "description", "parameters"}}``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sharedllm.arguments import checked
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.structured_output import ONE_LINE, bounded

OPEN, CLOSE = "<tool_call>", "</tool_call>"
CHOICES = ("auto", "any", "required", "none")
THOUGHT = 120  # characters of a ReAct agent's thought
ARGUMENTS = 48  # tokens of a ReAct call's arguments, by which texts without bounds get some
Tool = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A tool call that a model wrote.

    Attributes
    ----------
    name : str
    arguments : dict, or None where they are not a JSON object
    raw : str
        As it was written.
    """

    name: str
    arguments: dict[str, Any] | None
    raw: str


def chosen_tools(tools: Sequence[Tool], choice: Any) -> tuple[list[Tool], bool]:
    """The tools that may be called, and whether one has to be.

    Parameters
    ----------
    choice : None, "auto", "any", "required", "none", True, a tool's name, or a dict that names it

    Raises
    ------
    SetupError
        If it is none of these.
    """
    if isinstance(choice, Mapping):
        choice = (choice.get("function") or choice).get("name")
    if choice is None or choice == "auto" or choice is False:
        return list(tools), False
    if choice == "none":
        return [], False
    if choice in ("any", "required") or choice is True:
        return list(tools), True
    named = [tool for tool in tools if tool["function"]["name"] == choice]
    if not named:
        names = ", ".join(tool["function"]["name"] for tool in tools)
        raise SetupError(
            f"tool_choice is {choice!r}; allowed: {', '.join(CHOICES)}, or a tool's name ({names})"
        )
    return named, True


def tools_instruction(tools: Sequence[Tool], *, required: bool) -> str:
    """The model's instruction about its tools."""
    lines = [
        json.dumps(
            {
                "name": tool["function"]["name"],
                "description": tool["function"].get("description", ""),
                "parameters": tool["function"].get("parameters", {}),
            },
            ensure_ascii=False,
        )
        for tool in tools
    ]
    when = "Call one of these tools" if required else "You may call one of these tools"
    return (
        f"{when}:\n" + "\n".join(lines) + "\nTo call a tool, write "
        f'{OPEN}{{"name": <its name>, "arguments": <its arguments>}}{CLOSE} and nothing else.'
    )


def call_grammar(tools: Sequence[Tool], new_tokens: int, *, required: bool) -> str:
    """A Lark grammar of tool calls, and of any text beside them unless one is `required`."""
    lines = ["start: call" if required else "start: text | call"]
    if not required:
        lines.append(r"text: /[^<](.|\n)*/")
    names = [f"call_{index}" for index, _ in enumerate(tools)]
    lines.append("call: " + " | ".join(names))
    for name, tool in zip(names, tools, strict=True):
        schema = tool["function"].get("parameters") or {"type": "object", "properties": {}}
        body = {**bounded(schema, new_tokens - 24), "x-guidance": ONE_LINE}
        head = f'{OPEN}{{"name": {json.dumps(tool["function"]["name"])}, "arguments": '
        lines.append(f"{name}: {json.dumps(head)} {name}_args {json.dumps('}' + CLOSE)}")
        lines.append(f"{name}_args: %json {json.dumps(body)}")
    return "\n".join(lines)


def written_call(name: str, arguments: Mapping[str, Any]) -> str:
    """A call as the model would have written it, for the history of a conversation."""
    body = json.dumps({"name": name, "arguments": dict(arguments)}, ensure_ascii=False)
    return f"{OPEN}{body}{CLOSE}"


def parsed_calls(text: str) -> tuple[str, list[Call]]:
    """The text beside the calls in `text`, and the calls."""
    before, mark, rest = text.partition(OPEN)
    if not mark:
        return text, []
    calls, beside = [], before
    while mark:
        raw, _, rest = rest.partition(CLOSE)
        calls.append(_call(raw.strip()))
        between, mark, rest = rest.partition(OPEN)
        beside += between
    return beside.strip(), calls


def _call(raw: str) -> Call:
    try:
        given = json.loads(raw)
        name, arguments = given["name"], given["arguments"]
    except (ValueError, KeyError, TypeError):
        return Call(name="", arguments=None, raw=raw)
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return Call(name=str(name), arguments=None, raw=raw)
    return Call(name=name, arguments=arguments, raw=raw)


class HeldCalls:
    """Holds back the part of a stream that may be a tool call, which is shown as one at the end.

    Attributes
    ----------
    text : str
        The part that is held.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._decided, self.text = not enabled, ""

    def feed(self, piece: str) -> str:
        """The text of `piece` beside calls; a call can only stand first."""
        if self._decided:
            return piece
        self.text += piece
        start = self.text.lstrip()
        if not start or OPEN.startswith(start) or start.startswith(OPEN):
            return ""
        shown, self.text, self._decided = self.text, "", True
        return shown


@checked(error=SetupError)
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
