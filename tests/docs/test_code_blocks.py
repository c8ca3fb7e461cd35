"""Code of README and docs: Python runs on a tiny model, command lines fit the command line."""

from __future__ import annotations

import asyncio
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import typer
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from sharedllm import MemoryDocument, SharedLLM, TreeMemory, registry, shared_llm
from sharedllm.encoding import document_encoder
from sharedllm.encoding.document_encoder import DocumentEncoder
from sharedllm.memory import resolve
from sharedllm.training.train_config import read_config
from sharedllm_integrations.references import KEY_VARIABLE
from tests.docs.blocks import PAGES, ROOT, Block, blocks, commands, name, parsed
from tests.models import shared
from tests.texts import FERRY, STORY

WIDE = {"max_position_embeddings": 8192}
BOOK = "cookbooks/data/the_mayor_of_casterbridge.txt"
PYTHON = [page for page in PAGES if blocks(page, "python")]


@pytest.fixture(scope="module")
def encoder() -> DocumentEncoder:
    made = shared("llama", sizes=WIDE).encoder
    made.loaded_from = (None, "default")  # it stands for the embedded model
    return made


@pytest.fixture
def folder(
    encoder: DocumentEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A working folder with the files that the pages name; every model is the tiny one."""
    signature = inspect.signature(DocumentEncoder.load)

    def load(*given: Any, **options: Any) -> DocumentEncoder:
        signature.bind(*given, **options)
        return encoder

    monkeypatch.setattr(DocumentEncoder, "load", load)
    for module in (shared_llm, registry):  # names of the hub, which is not asked
        monkeypatch.setattr(module, "injectable", lambda name, options: True)
    monkeypatch.setattr(document_encoder, "_loaded", {})
    monkeypatch.setattr(registry, "_models", {})
    memories = resolve._Memories()
    monkeypatch.setattr(resolve, "_memories", memories)
    monkeypatch.setenv(KEY_VARIABLE, "ab" * 32)
    asyncio.set_event_loop(None)  # else LlamaIndex makes a loop and leaves it open
    monkeypatch.chdir(tmp_path)
    (tmp_path / BOOK).parent.mkdir(parents=True)
    (tmp_path / BOOK).write_text(STORY, encoding="utf-8")
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "ferry.txt").write_text(FERRY, encoding="utf-8")
    _print(STORY, tmp_path / "report.pdf")
    yield tmp_path
    for _, memory in memories._open.values():
        memory.close()


def _print(text: str, path: Path) -> None:
    """A PDF of one page."""
    with matplotlib.rc_context({"pdf.fonttype": 42}), PdfPages(path) as printed:
        sheet = Figure(figsize=(6, 8))
        plain = text.encode("ascii", "ignore").decode().replace("\r", "")
        sheet.text(0.1, 0.5, plain, size=5, parse_math=False)
        printed.savefig(sheet)


def given(page: str, folder: Path) -> dict[str, Any]:
    """What a page takes for granted: a loaded model, texts, documents, a chain."""
    names: dict[str, Any] = {
        "SharedLLM": SharedLLM,
        "llm": SharedLLM.from_pretrained(),
        "model": "models/llama-3.1-8b",
        "text": STORY,
        "new_text": f"{STORY} The end.",
        "question": "Who keeps the lamp?",
    }
    if page == "docs/tutorial.md":  # its command `sharedllm index` has made one
        with TreeMemory(folder / "memory", llm=names["llm"]) as made:
            made.add(MemoryDocument(id="story", text=STORY))
    if page == "docs/howto/citations.md":
        names["memory"] = TreeMemory(folder / "cited", llm=names["llm"])
        names["memory"].add(MemoryDocument(id="story", text=STORY))
    if page == "docs/tutorial.md":  # `sharedllm index` of the page
        made = resolve.open_memory(folder / "memory", create=True)
        made.add(MemoryDocument(id="ferry", text=FERRY, source="reports/ferry.txt"))
    if page == "docs/howto/langchain.md":
        names |= _of_langchain()
    if "llamaindex" in page or "integrations" in page:
        from llama_index.core import Document

        names["documents"] = [Document(id_="story", text=STORY)]
    return names


def _of_langchain() -> dict[str, Any]:
    """A loader, a chain and an agent's model as programs have them."""
    from langchain_core.documents import Document

    from sharedllm_integrations.langchain import ChatSharedLLM

    class PyPDFLoader:
        def __init__(self, path: str) -> None:
            self.path = path

        def load(self) -> list[Document]:
            pages = enumerate((STORY, FERRY))
            return [Document(t, metadata={"source": self.path, "page": n}) for n, t in pages]

    chat = ChatSharedLLM(max_tokens=4)
    return {
        "PyPDFLoader": PyPDFLoader,
        "model": chat,
        "chain": (lambda q: f"{STORY}\n\n{q}") | chat,
    }


@pytest.mark.parametrize("page", PYTHON, ids=name)
def test_python_runs(page: Path, folder: Path) -> None:
    names = given(name(page), folder)
    for block in blocks(page, "python"):
        code = compile(block.code, str(block), "exec")
        if not block.reason:
            exec(code, names)
    for value in names.values():
        if isinstance(value, TreeMemory):
            value.close()


@pytest.mark.parametrize("block", [b for page in PAGES for b in blocks(page, "diff")], ids=str)
def test_changed_lines_are_python(block: Block) -> None:
    lines = [line[1:] for line in block.code.splitlines() if line[:1] in "+ "]
    compile("\n".join(lines), str(block), "exec")


@pytest.mark.parametrize("block", [b for page in PAGES for b in blocks(page, "toml")], ids=str)
def test_a_training_run_is_valid(block: Block, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(block.code, encoding="utf-8")
    assert read_config(tmp_path / "run.toml", None).steps == 1000


COMMANDS = list(commands())


def _run(program: str) -> list[Any]:
    return [pytest.param(w, id=f"{at} {' '.join(w[:4])}") for at, w in COMMANDS if w[0] == program]


@pytest.mark.parametrize("words", _run("sharedllm"))
def test_options_exist(words: list[str]) -> None:
    parsed(words[1:])


@pytest.mark.parametrize("words", [["ask", "a.txt", "--store", "x"], ["eval", "qa", "--policy"]])
def test_other_options_are_refused(words: list[str]) -> None:
    with pytest.raises(typer.TyperException):
        parsed(words)


@pytest.mark.parametrize("words", _run("python") + _run("accelerate"))
def test_modules_and_their_options_exist(words: list[str]) -> None:
    module = words[words.index("-m") + 1]
    if module == "sharedllm":
        parsed(words[words.index("-m") + 2 :])
        return
    if not module.startswith("benchmarks"):
        return
    path = ROOT / module.replace(".", "/")
    files = sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    source = "".join(file.read_text(encoding="utf-8") for file in files)
    if "settings_of" in source:  # takes the options of `sharedllm eval`
        source += (ROOT / "sharedllm" / "cli" / "evaluation.py").read_text(encoding="utf-8")
    for option in [word for word in words if word.startswith("--")]:
        assert option in source or f"{option[2:].replace('-', '_')}:" in source, option


@pytest.mark.parametrize("words", _run("make"))
def test_targets_exist(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in words[1:]:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_extras_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = {e for m in re.findall(r"'(?:sharedllm|\.)\[([\w,]+)\]'", pages) for e in m.split(",")}
    assert named <= set(project["optional-dependencies"])
    assert {"langchain", "llamaindex", "train"} <= named


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_exist(page: Path) -> None:
    """Files of the repository that a page names: by their path here, or below sharedllm/."""
    text = page.read_text(encoding="utf-8")
    for file in re.findall(r"`([a-z_]+/[\w/]*\w\.(?:py|toml|sh))`", text):
        assert (ROOT / file).is_file() or (ROOT / "sharedllm" / file).is_file(), file
