"""The form of one answer - text, calls of tools, a value of a schema - from prompt to parsing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sharedllm_integrations.requests import (
    CalledTool,
    Message,
    Request,
    ToolOutput,
    sound_message,
    sound_text,
)
from sharedllm_integrations.schema_grammar import CHARACTERS_A_TOKEN, schema_grammar
from sharedllm_integrations.structured_output import cut_error, schema_instruction
from sharedllm_integrations.tool_calling import (
    Call,
    HeldCalls,
    Spelling,
    Tool,
    call_grammar,
    chosen_tools,
    parsed_calls,
    tools_instruction,
)

if TYPE_CHECKING:
    from sharedllm import SharedLLM

SAMPLE = 1000  # characters of which tokens are counted
OR_VALUE = "Once no tool is needed any more: "


@dataclass(frozen=True, kw_only=True)
class AnswerForm:
    """The form of one answer.

    Attributes
    ----------
    spelling : of calls
    tools : that may be called
    instructions : for the model, as text
    grammar : that the answer follows; empty leaves it free
    new_tokens : that the answer may have
    required : whether a tool has to be called
    """

    spelling: Spelling
    tools: tuple[Tool, ...]
    instructions: tuple[str, ...]
    grammar: str
    new_tokens: int
    required: bool = False

    @classmethod
    def of(cls, request: Request, llm: SharedLLM) -> AnswerForm:
        """The form that `request` asks `llm` for.

        Raises
        ------
        SetupError
            If its tools, choice or schema cannot be used.
        """
        given = request.options.get("max_new_tokens", llm.generation.max_new_tokens)
        new_tokens = given if isinstance(given, int) else llm.generation.max_new_tokens
        spelling = Spelling.of(llm.tool_format)
        tools, required = chosen_tools(request.tools, request.tool_choice)
        instructions, grammar = [], ""
        if tools and not spelling.native:
            instructions.append(tools_instruction(tools, required=required))
        if request.schema is not None and not (tools and required):
            told = schema_instruction(request.schema)
            instructions.append(f"{OR_VALUE}{told[0].lower()}{told[1:]}" if tools else told)
        if tools and llm.reader.holds_grammar:  # an endpoint is given the tools, and no grammar
            grammar = call_grammar(
                tools,
                new_tokens,
                required=required,
                parallel=spelling.native if request.parallel is None else request.parallel,
                spelling=spelling,
                schema=request.schema,
                characters_a_token=_characters_a_token(request, llm),
            )
        elif request.schema is not None and not tools:
            ratio = _characters_a_token(request, llm)
            grammar = schema_grammar(request.schema, new_tokens, ratio)
        return cls(
            spelling=spelling,
            tools=tuple(tools),
            instructions=tuple(instructions),
            grammar=grammar,
            new_tokens=new_tokens,
            required=bool(tools) and required,
        )

    @property
    def shown_tools(self) -> tuple[Tool, ...]:
        """The tools for the model's chat template."""
        return self.tools if self.spelling.native else ()

    def ask(self, messages: Sequence[Message]) -> list[Message]:
        """`messages` with the instructions in front and calls as the model spells them."""
        told = [Message(role="system", parts=(text,)) for text in self.instructions]
        return [sound_message(one) for one in (*told, *map(self._spelled, messages))]

    def _spelled(self, message: Message) -> Message:
        parts: list[Any] = []
        for part in message.parts:
            if isinstance(part, CalledTool):
                parts.append(self._call(part))
            elif isinstance(part, ToolOutput):
                parts += self._output(part)
            else:
                parts.append(part)
        return Message(role=message.role, parts=tuple(parts))

    def _call(self, part: CalledTool) -> Any:
        from sharedllm import ToolCall

        name = sound_text(part.name)
        written = json.dumps(dict(part.arguments), ensure_ascii=False, default=str)
        arguments: dict[str, Any] = json.loads(sound_text(written))
        if self.spelling.native:
            return ToolCall(name=name, arguments=arguments, id=part.id)
        return self.spelling.written(name, arguments)

    def _output(self, part: ToolOutput) -> list[Any]:
        from sharedllm import ToolResult

        if self.spelling.native:
            result = ToolResult(name=sound_text(part.name), id=part.id)
            return [result, "The tool failed: "] if part.failed else [result]
        failed = " failed" if part.failed else ""
        return [f"Result of {part.name or 'the tool'}{failed}:\n"]

    def read(self, text: str, finish_reason: str) -> tuple[str, list[Call]]:
        """The text of an answer beside its calls, and the calls, good ones and others."""
        if not self.tools:
            return text.strip(), []
        names = [tool["function"]["name"] for tool in self.tools]
        cut = str(cut_error(text, self.new_tokens)) if finish_reason == "length" else ""
        beside, calls = parsed_calls(text, self.spelling, names, cut=cut)
        return beside.strip(), calls

    def held_calls(self) -> HeldCalls:
        """A holder of the calls in a stream of the answer."""
        return HeldCalls(self.spelling if self.tools else None)


def _characters_a_token(request: Request, llm: SharedLLM) -> float:
    """Characters of an answer for each of the model's tokens, at least.

    It is measured where the answer's words come from: in the schema, and at the end of the last
    message, which is in the user's language.
    """
    schema = json.dumps([*request.tools, request.schema], ensure_ascii=False)
    said = "".join(request.messages[-1].texts) if request.messages else ""
    ratios = [CHARACTERS_A_TOKEN]
    for text in (sound_text(schema)[:SAMPLE], sound_text(said)[-SAMPLE:]):
        if text.strip():
            ids = llm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            ratios.append(len(text) / len(ids))
    return min(ratios)
