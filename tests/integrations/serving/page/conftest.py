"""The page in a browser, against a server on loopback with a tiny model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, sync_playwright

from sharedllm import SharedLLM, open_memory
from sharedllm_integrations.serving import ServerConfig
from tests.conftest import DOCUMENTS
from tests.integrations.serving.conftest import served
from tests.texts import STORY

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WIDE, PHONE = (1440, 900), (390, 844)
Open = Callable[..., Page]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(NAMES)} is on the path")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="package")
def library(llm: SharedLLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server whose memory holds three documents, for tests that only ask."""
    folder = tmp_path_factory.mktemp("page") / "memory"
    open_memory(folder, llm=llm, create=True).add(DOCUMENTS)
    with served(ServerConfig.of(memory=folder), llm) as address:
        yield address


@pytest.fixture
def show(browser: Browser) -> Iterator[Open]:
    """Open the page; errors of its scripts, and what its policy refuses, fail the test."""
    wrong: list[str] = []
    with ExitStack() as stack:

        def opened(address: str, size: tuple[int, int] = WIDE, *, ready: bool = True) -> Page:
            context = browser.new_context(
                viewport={"width": size[0], "height": size[1]},
                reduced_motion="reduce",  # nothing is to be waited for that only moves
                permissions=["clipboard-read", "clipboard-write"],
            )
            stack.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(20_000)
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on(
                "console", lambda told: wrong.append(told.text) if _refused(told.text) else None
            )
            page.goto(address)
            if ready:
                page.wait_for_selector("body.ready")
            return page

        yield opened
    assert wrong == []


def _refused(text: str) -> bool:
    return "Content Security Policy" in text or "TrustedHTML" in text


def ask(page: Page, question: str) -> None:
    """Ask, and wait for the end of the answer."""
    page.fill("#question", question)
    page.press("#question", "Enter")
    page.locator(".turn").last.locator(".actions button").first.wait_for()


def add(page: Page, *files: tuple[str, bytes]) -> None:
    """Add files, and wait until each is read or refused."""
    page.set_input_files(
        "#files",
        [{"name": name, "mimeType": "", "buffer": data} for name, data in files],
    )
    for name, _ in files:
        page.locator(".document", has_text=Path(name).stem).first.wait_for()
    page.locator(".document.reading").first.wait_for(state="detached")


def events(*values: dict[str, Any]) -> str:
    """A stream of events as the server sends them."""
    return "".join(f"data: {json.dumps(one)}\n\n" for one in values) + "data: [DONE]\n\n"


def told(text: str, *citations: dict[str, Any], **more: Any) -> str:
    """An answer of the server's, made up."""
    first = {"choices": [{"delta": {"content": text}, "finish_reason": None}]}
    last = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    record = {"citations": list(citations), "unsupported": [], "looks": 1, **more}
    return events(first, {**last, "sharedllm": record})


def passage(start: int, length: int, *, match: int, **more: Any) -> dict[str, Any]:
    """A passage of the lighthouse's story; its first `match` characters match the question."""
    return {
        "document": "story", "title": "The lighthouse", "source": "lighthouse.txt", "level": 2,
        "score": 3.5, "char_start": start, "char_end": start + length, "page": None,
        "end_page": None, "text": STORY[start : start + length], "match_start": start,
        "match_end": start + match, "round": 1, "sought": "", "section": "", **more,
    }  # fmt: skip


def answering(body: str) -> Callable[[Route], None]:
    """What answers a request of the page in the server's place."""
    return lambda route: route.fulfill(content_type="text/event-stream", body=body)
