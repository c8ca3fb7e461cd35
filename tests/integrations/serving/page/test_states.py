"""Keys, errors, history, the keyboard: what is around a question."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route

from sharedllm.display.plain import flowing
from sharedllm_integrations.serving import add_key
from tests.integrations.serving.conftest import Serve, client_of, read
from tests.integrations.serving.page.conftest import (
    Open,
    add,
    answering,
    ask,
    passage,
    told,
)
from tests.text import samples
from tests.texts import BOOK, FERRY, GARDEN

CHAT = "**/v1/chat/completions"


def error(message: str) -> str:
    return json.dumps({"error": {"message": message, "type": "x", "param": None, "code": None}})


def test_a_key_is_asked_for_and_kept_in_the_tab(serve: Serve, show: Open, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    key, other = add_key(keys, "acme"), add_key(keys, "other")
    address = serve(keys=keys)
    read(client_of(address, key), "vs_main", FERRY, "ferry.txt")
    read(client_of(address, other), "vs_main", GARDEN, "garden.txt")
    page = show(address, ready=False)
    page.locator("#key-dialog[open]").wait_for()
    page.fill("#key", "sk-sllm-wrong")
    page.press("#key", "Enter")
    page.locator("#key-problem", has_text="does not know").wait_for()
    page.fill("#key", key)
    page.press("#key", "Enter")
    page.locator(".document .name", has_text="ferry").wait_for()
    assert page.locator(".document").count() == 1  # the other tenant's is not there
    ask(page, "When does the ferry leave?")
    assert page.evaluate("Object.values({...localStorage})") == []
    kept = page.evaluate("Object.entries({...sessionStorage})")
    assert ["sharedllm-key", key] in kept
    page.get_by_text("Forget the key").click()
    page.locator("#key-dialog[open]").wait_for()
    assert page.evaluate("Object.values({...sessionStorage})") == []


def test_a_busy_server_is_asked_again(library: str, show: Open) -> None:
    page, asked = show(library), list[int]()

    def busy(route: Route) -> None:
        asked.append(1)
        if len(asked) == 1:
            headers = {"Retry-After": "1"}
            route.fulfill(status=429, headers=headers, body=error("32 requests wait"))
        else:
            route.fulfill(content_type="text/event-stream", body=told("at seven"))

    page.route(CHAT, busy)
    ask(page, "When does the ferry leave?")
    assert page.locator(".answer").inner_text() == "at seven"
    assert len(asked) == 2


def test_a_conversation_that_is_too_long(library: str, show: Open) -> None:
    page, lengths = show(library), list[int]()

    def narrow(route: Route) -> None:
        messages = (route.request.post_data_json or {})["messages"]
        lengths.append(len(messages))
        if len(messages) > 3:
            told_why = {"message": "too long", "code": "context_length_exceeded"}
            route.fulfill(status=400, json={"error": told_why})
        else:
            route.fulfill(content_type="text/event-stream", body=told("at seven"))

    page.route(CHAT, narrow)
    for question in ("One?", "Two?", "Three?"):
        ask(page, question)
    assert lengths == [1, 3, 5, 5, 5, 5, 3]  # the last 16, 8, 4, 2 turns, then 1
    assert "Asked with the last 1 turn of this" in page.locator(".notes").last.inner_text()


@pytest.mark.parametrize("how", ["refused", "away", "broken"])
def test_an_error_is_told_and_the_question_kept(library: str, show: Open, how: str) -> None:
    page = show(library)
    bodies = {"refused": error("the answer was not complete after 300 s"), "broken": "data: {}\n\n"}
    words = {"refused": "after 300 s", "away": "cannot be reached", "broken": "broke off"}

    def fails(route: Route) -> None:
        if how == "away":
            route.abort()
        else:
            route.fulfill(status=504 if how == "refused" else 200, body=bodies[how])

    page.route(CHAT, fails)
    page.fill("#question", "When does the ferry leave?")
    page.press("#question", "Enter")
    page.locator(".failed", has_text=words[how]).wait_for()
    page.unroute(CHAT)
    page.route(CHAT, answering(told("at seven")))
    page.get_by_text("Ask again").click()
    page.locator(".answer", has_text="at seven").wait_for()
    assert page.locator(".turn").count() == 1


def test_a_server_that_is_away(library: str, show: Open) -> None:
    page = show(library)
    page.route("**/v1/models", lambda route: route.abort())
    page.reload()
    page.get_by_text("The server does not answer").wait_for()
    page.unroute("**/v1/models")
    page.get_by_text("Try again").click()
    page.locator(".document").first.wait_for()


def test_stopping(library: str, show: Open) -> None:
    page = show(library)
    page.route(CHAT, lambda route: None)  # never answered
    page.fill("#question", "When does the ferry leave?")
    page.press("#question", "Enter")
    page.locator("#stop").click()
    page.get_by_text("Stopped before an answer").wait_for()
    assert page.locator("#send").is_visible()


def test_a_file_that_cannot_be_read(serve: Serve, show: Open) -> None:
    page = show(serve())
    add(page, ("broken.pdf", b"%PDF-1.4 no"), ("empty.txt", b""))
    refused = page.locator(".document.failed")
    assert "cannot be read as PDF" in refused.nth(1).inner_text()
    assert "empty" in refused.nth(0).inner_text()  # by the upload itself
    assert page.get_by_text("No document could be read").is_visible()
    page.get_by_label("Remove broken.pdf").click()
    page.get_by_role("button", name="Remove", exact=True).click()
    page.locator(".document", has_text="broken.pdf").wait_for(state="detached")


def test_documents_and_collections_go(serve: Serve, show: Open) -> None:
    address = serve()
    page = show(address)
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_label("New collection").first.click()
    page.fill("#name", "Reports")
    page.press("#name", "Enter")
    page.locator("#store option", has_text="Reports").wait_for(state="attached")
    add(page, ("ferry.txt", FERRY.encode()), ("card.docx", samples.word()))
    assert len(list(client_of(address).files.list())) == 2
    page.get_by_label("Remove ferry").click()
    page.get_by_role("button", name="Remove", exact=True).click()
    page.locator(".document", has_text="ferry").wait_for(state="detached")
    assert len(list(client_of(address).files.list())) == 1
    page.get_by_label("Delete this collection").click()
    page.locator("#store option", has_text="Reports").wait_for(state="detached")
    assert [one.id for one in client_of(address).vector_stores.list()] == ["vs_main"]


def test_how_far_a_file_is_read(library: str, show: Open) -> None:
    page = show(library)
    waiting = {
        "id": "file-1", "name": "long.pdf", "source": "long.pdf", "characters": 0, "tokens": 0,
        "attributes": {}, "status": "in_progress", "error": None, "uploaded": True, "pdf": True,
        "stores": 1,
    }  # fmt: skip
    progress = {"sharedllm": {"tokens_read": 2048, "tokens": 8192}}
    two = [waiting, {**waiting, "id": "file-2", "name": "next.pdf"}]
    page.route("**/documents", lambda route: route.fulfill(json={"data": two}))
    page.route("**/files/file-1", lambda route: route.fulfill(json=progress))
    page.route("**/files/file-2", lambda route: route.fulfill(json={"id": "file-2"}))
    page.reload()
    page.get_by_text("reading: 2,048 of 8,192 tokens").wait_for()
    first, second = page.locator(".document progress").all()
    assert first.evaluate("bar => bar.position") == 0.25
    assert not second.is_visible()  # nothing is done for it yet
    assert page.get_by_text("waits to be read").is_visible()


def test_conversations_are_kept(library: str, show: Open) -> None:
    page = show(library)
    page.route(CHAT, answering(told("at dusk", passage(0, 90, match=60))))
    ask(page, "When does the ferry leave?")
    ask(page, "What does it cost?")
    answers = page.locator(".answer").all_inner_texts()
    page.reload()
    page.wait_for_selector("body.ready")
    assert page.locator(".answer").all_inner_texts() == answers
    assert page.locator("li.passage.lit").count() > 0
    page.get_by_role("button", name="New conversation").click()
    assert page.locator(".turn").count() == 0
    page.locator(".history .name", has_text="When does the ferry leave?").click()
    assert page.locator(".answer").all_inner_texts() == answers
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("#history-clear").click()
    assert page.locator(".turn").count() == 0
    page.reload()
    page.wait_for_selector("body.ready")
    assert page.locator(".history li").count() == 0


def current(page: Page) -> str:
    return page.locator("li.passage.current .rank").inner_text()


def test_the_keyboard_does_all_of_it(library: str, show: Open) -> None:
    page = show(library)
    two = passage(0, 90, match=60), passage(200, 90, match=60, score=2.5)
    page.route(CHAT, answering(told("at dusk", *two)))
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    assert page.locator("#keys-dialog").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("When does the ferry to Penmor leave, and who grew poppies?")
    page.keyboard.press("Enter")
    page.locator(".actions button").first.wait_for()
    assert page.locator("li.passage").count() == 2
    page.evaluate("document.activeElement.blur()")
    assert current(page) == "1"
    page.keyboard.press("j")
    assert current(page) == "2"
    page.locator("#reader mark.current").wait_for()
    page.keyboard.press("k")
    assert current(page) == "1"
    page.keyboard.press("2")
    assert current(page) == "2"
    page.keyboard.press("Escape")
    assert not page.locator("#reader").is_visible()
    page.keyboard.press("n")
    assert page.locator(".turn").count() == 0
    assert page.evaluate("document.activeElement.id") == "question"


def test_line_ends_flow_as_in_notebooks(library: str, show: Open) -> None:
    page = show(library)
    wrapped = "\n".join(BOOK[at : at + 70] for at in range(0, len(BOOK), 70))
    for text in (
        BOOK,
        wrapped,
        "- one\n- two\n" * 5,
        "",
        "a\n\nb",
        "x" * 80 + "\nand so on\n  code",
    ):
        found = page.evaluate(
            "async (text) => (await import('/page/static/text.js')).flowing(text)", text
        )
        assert found == flowing(text)
