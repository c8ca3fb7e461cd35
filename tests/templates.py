"""Chat templates with tools, in the manner of three families, with the tiny tokenizer's tokens."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken

_TURN = "'<|turn|>' + m.role + '\n' + m.content + '<|close|>\n'"
_START = "{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"

QWEN = (  # calls between tags, one after the other
    "{% if tools %}{{ '<|turn|>system\n<tools>' }}{% for t in tools %}{{ '\n' }}{{ t | tojson }}"
    "{% endfor %}{{ '\n</tools><|close|>\n' }}{% endif %}{% for m in messages %}"
    "{% if m.role == 'assistant' and m.tool_calls %}{{ '<|turn|>assistant' }}"
    "{% if m.content %}{{ '\n' + m.content }}{% endif %}{% for c in m.tool_calls %}"
    '{% set c = c.function %}{{ \'\n<tool_call>\n{"name": "\' + c.name + \'", "arguments": \' }}'
    "{{ c.arguments | tojson }}{{ '}\n</tool_call>' }}{% endfor %}{{ '<|close|>\n' }}"
    f"{{% else %}}{{{{ {_TURN} }}}}{{% endif %}}{{% endfor %}}{_START}"
)
LLAMA = (  # one call, which is the whole turn
    "{% for m in messages %}{% if m.role == 'assistant' and m.tool_calls %}"
    "{% if m.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}"
    "{% set c = m.tool_calls[0].function %}{{ '<|turn|>assistant\n' }}"
    '{{ \'{"name": "\' + c.name + \'", "parameters": \' }}{{ c.arguments | tojson }}'
    "{{ '}<|close|>\n' }}{% elif tools and loop.first %}{{ '<|turn|>user\n' }}"
    "{% for t in tools %}{{ t | tojson(indent=4) }}{{ '\n' }}{% endfor %}"
    f"{{{{ m.content + '<|close|>\n' }}}}{{% else %}}{{{{ {_TURN} }}}}{{% endif %}}{{% endfor %}}"
    f"{_START}"
)
MISTRAL = (  # a list of calls behind a special token, with ids
    "{% if tools %}{{ '[TOOLS]' + (tools | tojson) }}{% endif %}{% for m in messages %}"
    "{% if m.role == 'assistant' and m.tool_calls %}{{ '<|calls|>[' }}{% for c in m.tool_calls %}"
    '{{ \'{"name": "\' + c.function.name + \'", "arguments": \' }}'
    "{{ c.function.arguments | tojson }}{{ ', \"id\": \"' + c.id + '\"}' }}"
    "{% if not loop.last %}{{ ', ' }}{% endif %}{% endfor %}{{ ']<|end|>' }}"
    "{% elif m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}"
    "{% else %}{{ m.content + '<|end|>' }}{% endif %}{% endfor %}"
)


def show_tools(tokenizer: Any, template: str) -> Any:
    """`tokenizer` with `template`, and the special token in front of calls."""
    tokenizer.add_tokens([AddedToken("<|calls|>", special=True)], special_tokens=True)
    tokenizer.chat_template = template
    return tokenizer
