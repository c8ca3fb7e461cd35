"""The page that `sharedllm ask --html` writes, and the paths that it refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sharedllm import SharedLLM
from sharedllm.display import page
from sharedllm.display.picture import Answered, Excerpt, Picture, Span
from sharedllm.errors import ConfigError
from sharedllm.text.pages import page_starts
from tests.display.html_tree import Parsed, check
from tests.display.test_html import ATTACK

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)


def answered(text: str = ATTACK, question: str = ATTACK) -> Answered:
    """An answer about one hostile document, in the middle of which a passage lies."""
    document = text * 40
    middle = len(document) // 2
    picture = Picture(
        document=text,
        title=text,
        source=text,
        characters=len(document),
        passages=(Span(start=middle, end=middle + 300, level=3, score=1.5, chosen="fine"),),
        excerpts=(Excerpt(start=0, text=document),),
    )
    return Answered(question=question, text=text, pictures=(picture,), summary="it took a while")


def test_a_page_needs_nothing_and_runs_nothing() -> None:
    parsed = check(page.page([answered(), answered()]))
    metas = parsed.every("meta")
    assert {"charset": "utf-8"} in metas
    (scorer,) = (m["content"] for m in metas if m.get("http-equiv") == "Content-Security-Policy")
    assert str(scorer).startswith("default-src 'none'")
    assert any(m.get("name") == "viewport" for m in metas)
    assert "<script>alert(1)</script>" in parsed.text
    assert "it took a while" in parsed.text
    assert len(parsed.every("section")) == len(parsed.every("h1")) == 2
    assert "#q2" in parsed.links()
    assert "#q2-e1" in parsed.links()
    assert "prefers-color-scheme: dark" in page.page([answered()])


def test_half_a_surrogate_pair_can_be_written(tmp_path: Path) -> None:
    page.write(tmp_path / "page.html", [answered(question="who\ud800?")])
    assert "who?" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_page_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "page.html"
    target.write_text("before")
    page.check(target)
    assert target.read_text() == "before"

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(ConfigError, match="No space left"):
            page.write(target, [answered()])
    assert target.read_text() == "before"
    page.write(target, [answered()])
    check(target.read_text(encoding="utf-8"))
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
    assert target.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (".", "a folder; name a file"),
        ("", "a folder; name a file"),
        ("missing/page.html", "there is no folder"),
        ("book.txt", "is read"),
        ("library/memory.sqlite", "lies in the memory"),
        ("book.txt/page.html", "--html is"),
        ("\0", "cannot be written"),
        ("x" * 300, "cannot be written"),
        ("/dev/null", "no regular file"),
    ],
)
def test_paths_that_are_refused(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text("a book")
    Path("library").mkdir()
    with pytest.raises(ConfigError, match=message):
        page.check(name, ["./book.txt", "library"])
    assert sorted(f.name for f in tmp_path.iterdir()) == ["book.txt", "library"]


def test_a_folder_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(ConfigError, match="cannot be written: Permission denied"):
        page.check(tmp_path / "page.html")


@pytest.fixture
def browser(tmp_path: Path) -> list[str]:
    if BROWSER is None:
        pytest.skip("no chromium, google-chrome or chrome is on the path")
    return [
        *(BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        f"--user-data-dir={tmp_path / 'profile'}",
    ]


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1000])
def test_a_browser_shows_the_page(browser: list[str], tmp_path: Path, width: int) -> None:
    target = tmp_path / "page.html"
    page.write(target, [answered(), answered("A plain text, word after word. ")])
    # a frame as wide as a phone tells what a window, which has a least width, would not
    (tmp_path / "frame.html").write_text(
        f"<body><iframe id=f src=page.html width={width} height=600></iframe><script>onload=()=>{{"
        "const d=f.contentDocument,r=d.documentElement;"
        "document.title=[r.scrollWidth<=r.clientWidth,d.scripts.length,d.images.length,"
        "d.querySelectorAll('a[href]').length>8,"
        "d.querySelector('.fine').getBoundingClientRect().width>=4].join()"
        "}</script>"
    )
    command = [*browser, "--allow-file-access-from-files", "--virtual-time-budget=3000"]
    done = subprocess.run(
        [*command, "--dump-dom", f"file://{tmp_path}/frame.html"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "<title>true,0,0,true,true</title>" in done.stdout


def paged(source: str) -> Picture:
    """A document of three pages; a passage goes from the end of the second to the third."""
    text = f"{'one ' * 50}\f{'two ' * 50}\f{'three ' * 50}"
    start = text.index("three") - 21
    return Picture(
        document="d",
        title="The report",
        source=source,
        characters=len(text),
        pages=page_starts(text),
        passages=(Span(start=start, end=start + 60, level=3, score=1.5, chosen="fine"),),
        excerpts=(Excerpt(start=0, text=text),),
    )


def links(source: str, folder: Path) -> list[str]:
    """What leads out of the page in `folder` that shows a document called `source`."""
    one = Answered(question="What?", text="two", pictures=(paged(source),), summary="")
    out = page.page([one], folder)
    parsed = Parsed(out)
    assert "page 2" in parsed.text  # where the passage begins
    assert "page 1page 3" in parsed.text  # the strip's ends
    assert "page 2" in str(parsed.every("mark")[0]["title"])
    return [link for link in parsed.links() if not link.startswith("#")]


def test_pages_of_a_pdf_are_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "a:b & <c> #1.PDF"
    Path("out").mkdir()
    Path(name).write_bytes(b"")
    quoted = "../a%3Ab%20%26%20%3Cc%3E%20%231.PDF"
    for source in (name, str(tmp_path / name)):
        shown = links(source, Path("out"))
        assert shown == [f"{quoted}#page=2", quoted, f"{quoted}#page=2", f"{quoted}#page=3"]
    Path("notes.txt").touch()
    assert set(links("notes.txt", tmp_path)) == {"notes.txt"}
    one = Answered(question="What?", text="two", pictures=(paged(name),), summary="")
    page.write("page.html", [one])
    assert f'href="{quoted[3:]}#page=2"' in Path("page.html").read_text()


@pytest.mark.parametrize(
    "source", ["javascript:alert(1)", "gone.pdf", "", ".", "\0", "x" * 5000, "data:text/html,x"]
)
def test_what_is_no_file_is_not_linked(source: str, tmp_path: Path) -> None:
    assert links(source, tmp_path) == []


def test_what_is_on_the_web_is_linked(tmp_path: Path) -> None:
    web = 'https://example.org/a.pdf?b=1&c="'
    assert set(links(web, tmp_path)) == {web, f"{web}#page=2", f"{web}#page=3"}
    assert links("https://example.org/\x1b[2J.pdf", tmp_path) == []


def test_text_without_pages_says_nothing_of_them() -> None:
    assert "page 1" not in Parsed(page.page([answered()])).text


def test_an_answer_writes_its_own_page(tiny_llm: SharedLLM, tmp_path: Path) -> None:
    (tmp_path / "story.pdf").touch()
    book = tiny_llm.remember("One day.\fTwo ships.", source=str(tmp_path / "story.pdf"))
    messages = [{"role": "user", "content": "Which <ships>?"}]
    answer = tiny_llm.answer(messages, book, max_new_tokens=2)
    check(answer.to_html())
    written = answer.to_html(tmp_path / "page.html")
    assert written == (tmp_path / "page.html").read_text(encoding="utf-8")
    parsed = check(written, ["story.pdf", "story.pdf#page=2"])
    assert "Which <ships>?" in parsed.text
    with pytest.raises(ConfigError, match=r"path is .* is read"):
        answer.to_html(tmp_path / "story.pdf")
    with pytest.raises(ConfigError, match=r"path is .* there is no folder"):
        answer.to_html(tmp_path / "none" / "page.html")
    odd = tiny_llm.remember("One day.", source="\0" * 9)
    tiny_llm.answer("Hello", odd, max_new_tokens=2).to_html(tmp_path / "odd.html")
    assert "<h1" in tiny_llm.answer("Hello", max_new_tokens=2).to_html()
