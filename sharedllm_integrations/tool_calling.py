"""Tools: as they are shown to a model, how it spells calls, and calls read from its answers.

Tools are dicts as OpenAI spells them: ``{"function": {"name", "description", "parameters"}}``. A
model whose chat template shows tools gets them through it, and spells calls as the template does;
for others, tools are described in the prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sharedllm.arguments import checked, shown
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.schema_grammar import CHARACTERS_A_TOKEN, ONE_LINE, bounded
from sharedllm_integrations.structured_output import require_schema

if TYPE_CHECKING:
    from sharedllm import ToolFormat

CHOICES = ("auto", "any", "required", "none")
MOST_CALLS = 4  # in one answer
CALL = 24  # tokens of a call around its arguments
THOUGHT = 120  # characters of a ReAct agent's thought
MOST_ARGUMENTS = 100_000
ARGUMENTS = 48  # tokens of a ReAct call's arguments, by which texts without bounds get some
META = frozenset("\\.+*?()|[]{}^$#&-~/")  # of regular expressions in grammars
ANYTHING = r"(.|\n)"
Tool = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A tool call that a model wrote.

    Attributes
    ----------
    name : str
    arguments : dict, or None where it is no valid call
    raw : str
        As it was written.
    error : str
        Why it is no valid call.
    """

    name: str
    arguments: dict[str, Any] | None
    raw: str
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Spelling:
    """The spelling of calls: ``before NAME middle ARGUMENTS after``.

    Attributes
    ----------
    between : from the arguments of a call to the name of the next; None allows one call
    special : special tokens in these -> their ids; answers do not show them
    native : whether it is that of the model's chat template
    """

    before: str
    middle: str
    after: str
    between: str | None
    special: Mapping[str, int] = field(default_factory=dict)
    native: bool = False

    @classmethod
    def of(cls, format: ToolFormat | None) -> Spelling:
        """The spelling of a chat template, or ours."""
        if format is None:
            return OURS
        return cls(
            before=format.before,
            middle=format.middle,
            after=format.after,
            between=format.between,
            special=format.special,
            native=True,
        )

    @property
    def mark(self) -> str:
        """The text by which an answer shows that a call begins."""
        shown = self.shown(self.before).lstrip()
        return re.split(r"[{\[]", shown)[0].rstrip() or shown

    @property
    def has_tag(self) -> bool:
        """True if calls stand behind a tag, and not only in JSON."""
        return not self.mark.startswith(("{", "["))

    @property
    def close(self) -> str:
        """The text that ends a call, behind its JSON."""
        shown = self.shown(self.after)
        return shown[max(shown.rfind("}"), shown.rfind("]")) + 1 :].strip()

    def shown(self, text: str) -> str:
        """`text` without special tokens, as an answer shows it."""
        for token in self.special:
            text = text.replace(token, "")
        return text

    def written(self, name: str, arguments: Mapping[str, Any]) -> str:
        """A call as the model would write it, for the history of a conversation."""
        spelled = json.dumps(dict(arguments), ensure_ascii=False)
        return f"{self.before}{_inner(name)}{self.middle}{spelled}{self.after}"

    # -- grammars --------------------------------------------------------------------------------

    def terms(self, text: str) -> str:
        """`text` in a grammar, where special tokens are named by their ids."""
        if not self.special:
            return json.dumps(text, ensure_ascii=False)
        tokens = "|".join(map(re.escape, self.special))
        pieces = [piece for piece in re.split(f"({tokens})", text) if piece]
        spelled = (
            f"<[{self.special[piece]}]>" if piece in self.special else json.dumps(piece)
            for piece in pieces
        )
        return " ".join(spelled) or '""'

    def free(self) -> list[str]:
        """The rule of an answer that is a text, or calls with or without a text before them."""
        start = self.before.lstrip()
        if any(start.startswith(token) for token in self.special):
            return ["start: TEXT | TEXT? head calls", f"TEXT: /{ANYTHING}+/"]
        mark = "".join(f"\\{sign}" if sign in META else sign for sign in self.mark)
        mark = mark.replace("\n", r"\n")
        return [
            "start: TEXT | ahead rest calls",
            f"TEXT: /{ANYTHING}+/ & ~/{ANYTHING}*{mark}{ANYTHING}*/",
            f"ahead[lazy]: /{ANYTHING}*{mark}/",
            f"rest: {self.terms(start.removeprefix(self.mark))}",
        ]


OURS = Spelling(
    before='<tool_call>{"name": "',
    middle='", "arguments": ',
    after="}</tool_call>",
    between='}</tool_call>\n<tool_call>{"name": "',
)


def chosen_tools(tools: Sequence[Tool], choice: Any) -> tuple[list[Tool], bool]:
    """The tools that may be called, and whether one has to be.

    Parameters
    ----------
    choice : None, "auto", "any", "required", "none", True, a tool's name, or a dict that names it

    Raises
    ------
    SetupError
        If it is none of these, or a tool has no name or no JSON schema.
    """
    for tool in tools:
        require_tool(tool)
    if isinstance(choice, Mapping):
        choice = (choice.get("function") or choice).get("name") or choice.get("type")
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


def require_tool(tool: Any) -> None:
    """Refuse what is no tool in OpenAI's spelling.

    Raises
    ------
    SetupError
    """
    function = tool.get("function") if isinstance(tool, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise SetupError(
            f"a tool is {tool!r}; give a function, or "
            "{'type': 'function', 'function': {'name', 'description', 'parameters'}}: tools that "
            "run at a provider do not run here"
        )
    require_schema(parameters_of(tool))


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
        '<tool_call>{"name": <its name>, "arguments": <its arguments>}</tool_call> '
        "and nothing else."
    )


def call_grammar(
    tools: Sequence[Tool],
    new_tokens: int,
    *,
    required: bool,
    parallel: bool = False,
    spelling: Spelling = OURS,
    schema: Mapping[str, Any] | None = None,
    characters_a_token: float = CHARACTERS_A_TOKEN,
) -> str:
    """A Lark grammar of tool calls, and unless one is `required` of other answers.

    Parameters
    ----------
    parallel : several calls in one answer
    schema : other answers are JSON values of it; None is any text
    """
    several = parallel and spelling.between is not None
    room = (new_tokens - CALL) // (2 if several else 1)
    more = f" (between call){{0,{MOST_CALLS - 1}}}" if several else ""
    lines = [f"head: {spelling.terms(spelling.before)}", f"calls: call{more} after"]
    if several and spelling.between is not None:
        lines.append(f"between: {spelling.terms(spelling.between)}")
    lines.append(f"after: {spelling.terms(spelling.after)}")
    if required:
        lines.append("start: head calls")
    elif schema is not None:
        lines += ["start: value | head calls"]
        lines += _json_rule("value", schema, new_tokens, characters_a_token)
    else:
        lines += spelling.free()
    names = [f"call_{index}" for index, _ in enumerate(tools)]
    lines.append("call: " + " | ".join(names))
    for name, tool in zip(names, tools, strict=True):
        begun = spelling.terms(_inner(tool["function"]["name"]) + spelling.middle)
        lines.append(f"{name}: {begun} {name}_args")
        lines += _json_rule(f"{name}_args", parameters_of(tool), room, characters_a_token)
    return "\n".join(lines)


def _json_rule(
    name: str, schema: Mapping[str, Any], room: int, characters_a_token: float
) -> list[str]:
    held = {**bounded(schema, room, characters_a_token), "x-guidance": ONE_LINE}
    return [f"{name}: %json {json.dumps(held)}"]


def parameters_of(tool: Tool) -> dict[str, Any]:
    """The JSON schema of a tool's arguments."""
    return tool["function"].get("parameters") or {"type": "object", "properties": {}}


def parsed_calls(
    text: str, spelling: Spelling = OURS, names: Sequence[str] | None = None, *, cut: str = ""
) -> tuple[str, list[Call]]:
    """The text beside the calls in `text`, and the calls.

    Parameters
    ----------
    names : of tools that may be called; None is any
    cut : the error of a call that is not whole, if the answer was cut
    """
    mark, close = spelling.mark, spelling.close
    calls: list[Call] = []
    beside, at = "", 0
    while (begin := text.find(mark, at)) >= 0:
        beside += text[at:begin]
        start = begin + len(mark) if spelling.has_tag else begin
        raw, at = _json_text(text, start, close)
        found = list(_calls(raw, names, cut))
        if spelling.has_tag or all(call.arguments is not None for call in found):
            calls += found
        else:
            beside += text[begin:at]
    rest = text[at:]
    begun = _begun(rest, mark) if cut else ""
    if len(begun) > 1:
        calls.append(Call(name="", arguments=None, raw=begun, error=cut))
        rest = rest[: -len(begun)]
    return (beside + rest).strip() if calls else text, calls


def _begun(text: str, mark: str) -> str:
    """The end of `text` with which `mark` may begin."""
    longest = min(len(mark) - 1, len(text))
    return next((mark[:n] for n in range(longest, 0, -1) if text.endswith(mark[:n])), "")


def _json_text(text: str, start: int, close: str) -> tuple[str, int]:
    """The JSON value at `start`, or what stands there for it, and where its call ends."""
    rest = text[start:]
    blank = len(rest) - len(rest.lstrip())
    try:
        length = json.JSONDecoder().raw_decode(rest.lstrip())[1] + blank
    except ValueError:
        raw, mark, _ = rest.partition(close) if close else (rest, "", "")
        return raw.strip(), start + len(raw) + len(mark)
    after = rest[length:].lstrip()
    if close and after.startswith(close):
        return rest[:length].strip(), len(text) - len(after) + len(close)
    if close and after:  # something beside the value: all of it is no call
        raw, mark, _ = rest.partition(close)
        return raw.strip(), start + len(raw) + len(mark)
    return rest[:length].strip(), start + length


def _calls(raw: str, names: Sequence[str] | None, cut: str) -> Iterator[Call]:
    try:
        given = json.loads(raw)
    except ValueError:
        yield Call(name="", arguments=None, raw=raw, error=cut or "the call is no JSON")
        return
    several = isinstance(given, list) and all(isinstance(one, dict) for one in given) and given
    for one in given if several else [given]:
        written = json.dumps(one, ensure_ascii=False) if several else raw
        yield _call(one, written, names)


def _call(given: Any, raw: str, names: Sequence[str] | None) -> Call:
    name = given.get("name") if isinstance(given, dict) else None
    if not isinstance(name, str) or not name:
        return Call(name="", arguments=None, raw=raw, error="the call names no tool")
    if names is not None and name not in names:
        known = ", ".join(names)
        error = f"there is no tool {name!r}; the tools are: {known}"
        return Call(name=name, arguments=None, raw=raw, error=error)
    arguments = given.get("arguments", given.get("parameters"))
    if not isinstance(arguments, dict):
        return Call(name=name, arguments=None, raw=raw, error="its arguments are no JSON object")
    return Call(name=name, arguments=arguments, raw=raw)


class HeldCalls:
    """Holds back the part of a stream that may be tool calls, which are shown as such at the end.

    Attributes
    ----------
    text : str
        The part that is held.
    """

    def __init__(self, spelling: Spelling | None) -> None:
        self._mark = spelling.mark if spelling else ""
        self._begun, self.text = False, ""

    def feed(self, piece: str) -> str:
        """The text of `piece` that is certain to stand before calls."""
        if not self._mark:
            return piece
        self.text += piece
        at = self.text.find(self._mark)
        self._begun = self._begun or at >= 0
        if not self._begun:
            at = len(self.text) - len(_begun(self.text, self._mark))
        shown, self.text = self.text[: max(0, at)], self.text[max(0, at) :]
        return shown


def _inner(name: str) -> str:
    """`name` within quotation marks of JSON."""
    return json.dumps(name, ensure_ascii=False)[1:-1]


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
        Without tools, with something else than a tool, or if `arguments` is not 1 to 100,000.
    """
    if not tools:
        raise SetupError("react_grammar() was given no tools; give those of the agent")
    for tool in tools:
        if not hasattr(getattr(tool, "metadata", None), "get_parameters_dict"):
            raise SetupError(f"react_grammar() was given {shown(tool)}; give LlamaIndex's tools")
    if not 1 <= arguments <= MOST_ARGUMENTS:
        raise SetupError(f"arguments is {shown(arguments)}; allowed: 1 to {MOST_ARGUMENTS:,}")
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
