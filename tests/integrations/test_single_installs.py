"""Each extra installed alone, in an environment of its own; needs a package index."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.conftest import WIDE
from tests.models import make_model, make_tokenizer

ROOT = Path(__file__).parents[2]
NEEDED = ("sharedllm", "sharedllm_integrations", "pyproject.toml", "README.md", "LICENSE")
LANGCHAIN = """
    from langchain_core.documents import Document
    from langchain_core.prompts import ChatPromptTemplate
    from sharedllm_integrations.langchain import ChatSharedLLM, TreeMemoryRetriever

    core = loaded(FOLDER, adapter=None, device="cpu")
    retriever = TreeMemoryRetriever(memory="memory", llm=core, k=1)
    retriever.upsert([Document(page_content=TEXT, metadata={"source": "texts/ferry.txt"})])
    (found,) = retriever.invoke(QUESTION)
    prompt = ChatPromptTemplate.from_template("{context}\\n\\nQuestion: {question}")
    chat = ChatSharedLLM(memory="memory", llm=core, max_tokens=4)
    message = (prompt | chat).invoke({"context": found.page_content, "question": QUESTION})
    (document,) = message.response_metadata["sharedllm"]["documents"]
"""
LLAMAINDEX = """
    from llama_index.core import Document
    from sharedllm_integrations.llamaindex import LlamaIndexSharedLLM, TreeMemoryIndex

    core = loaded(FOLDER, adapter=None, device="cpu")
    one = Document(text=TEXT, metadata={"file_path": "texts/ferry.txt"})
    index = TreeMemoryIndex.from_documents([one], llm=LlamaIndexSharedLLM(llm=core, max_tokens=4))
    response = index.as_query_engine().query(QUESTION)
    ((document,),) = [call["documents"] for call in response.metadata["sharedllm"]]
"""
CHECKED = """
    assert (document["outcome"], document["title"]) == ("reused", "ferry.txt"), document
    print([name for name in OTHERS if importlib.util.find_spec(name)])
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, cwd=cwd
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("extra", "use", "others"),
    [
        ("langchain", LANGCHAIN, ("llama_index", "langchain", "langgraph", "openai")),
        ("llamaindex", LLAMAINDEX, ("langchain_core", "langchain", "langgraph", "openai")),
    ],
)
def test_an_extra_alone(tmp_path: Path, extra: str, use: str, others: tuple[str, ...]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in NEEDED:  # a copy, because building writes into the folder
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv/bin/python"
    constraints = ROOT / "constraints.txt"
    install = ("-m", "pip", "install", "--quiet", "--constraint", constraints)
    run(python, *install, f"{source}[{extra}]", cwd=tmp_path)
    make_model("llama", **WIDE).save_pretrained(tmp_path / "tiny")
    make_tokenizer().save_pretrained(tmp_path / "tiny")
    given = {
        "FOLDER": str(tmp_path / "tiny"),
        "OTHERS": others,
        "TEXT": "The ferry to Penmor leaves at seven in the morning.",
        "QUESTION": "When does the ferry leave?",
    }
    lines = ["import importlib.util", "from sharedllm import loaded"]
    lines += [f"{name} = {value!r}" for name, value in given.items()]
    code = "\n".join((*lines, textwrap.dedent(use), textwrap.dedent(CHECKED)))
    assert run(python, "-c", code, cwd=tmp_path) == "[]"
