"""Adding, asking, passages in their text: what the page is for."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
from playwright.sync_api import Page

from sharedllm.display.plain import flowing
from tests.integrations.serving.conftest import Serve
from tests.integrations.serving.page.conftest import (
    PHONE,
    Open,
    add,
    answering,
    ask,
    passage,
    told,
)
from tests.text import samples
from tests.texts import BOOK, FERRY, GARDEN, STORY

CHAT = "**/v1/chat/completions"
EVIL = (
    "# <img src=x onerror='window.ran=1'> Harbour <script>window.ran=1</script>\n\n"
    "<b onclick='window.ran=1'>The harbour master</b> is <iframe srcdoc='x'></iframe> Captain Rees."
)


def test_a_file_is_read_and_asked(serve: Serve, show: Open) -> None:
    page = show(serve())
    assert page.locator(".dropzone").is_visible()
    assert not page.locator("#ask").is_visible()  # nothing can be asked yet
    add(page, ("ferry.txt", FERRY.encode()), ("garden.txt", GARDEN.encode()))
    assert page.locator("#documents-note").inner_text().startswith("2 documents")
    ask(page, "When does the ferry leave?")
    ranks = page.locator("li.passage .rank").all_inner_texts()
    assert ranks == [str(n + 1) for n in range(len(ranks))]
    assert page.locator("li.passage.lit").count() == len(ranks) > 0
    scores = [float(text) for text in page.locator("li.passage .score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    match = page.locator("li.passage .match").first
    assert match.inner_text() in FERRY + GARDEN
    assert page.locator("li.passage.current").count() == 1  # the best one is open beside it
    lit = page.locator("#reader mark.current .match")
    assert lit.inner_text() == match.inner_text()
    assert "passage" in page.locator(".turn .status").inner_text()


def test_what_documents_bring_is_text(serve: Serve, show: Open) -> None:
    page = show(serve())
    name = "<img src=x onerror='window.ran=1'>.md"
    add(page, ("evil.md", EVIL.encode()), (name, EVIL.replace("Rees", "Roe").encode()))
    ask(page, "Who is the harbour master? <script>window.ran=1</script>")
    page.route(CHAT, answering(told("<img src=x onerror='window.ran=1'><b>Rees</b>")))
    ask(page, "And then?")
    page.keyboard.press("Escape")
    page.locator("#documents .name").first.click()
    page.locator("#reader .text span").first.wait_for()
    made = page.locator("body :is(img, iframe, script, [onclick], [onerror], [srcdoc])")
    assert made.count() == 0
    assert page.evaluate("window.ran") is None
    text = page.locator("#turns").inner_text()
    assert "<script>window.ran=1</script>" in text
    assert "<b>Rees</b>" in text
    assert "<img src=x" in page.locator("#reader .text").inner_text()


def test_nothing_comes_from_elsewhere(library: str, show: Open) -> None:
    page, asked = show(library), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    page.wait_for_selector("body.ready")
    ask(page, "Who kept the light?")
    assert asked
    assert all(url.startswith(library) for url in asked)
    found = httpx.get(library)
    policy = found.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "<style" not in found.text
    assert "style=" not in found.text
    assert found.text.count("<script") == found.text.count('<script type="module" src=') == 1


def test_characters_that_javascript_counts_twice(serve: Serve, show: Open) -> None:
    page = show(serve())
    text = "\U0001f98a\U0001f98a\U0001f98a " * 9 + "\n\nThe fox lives at 12 Quay Street."
    add(page, ("fox.txt", text.encode()))
    ask(page, "Where does the fox live?")
    assert page.locator("li.passage .match").inner_text() == "The fox lives at 12 Quay Street."
    assert page.locator("#reader .match").inner_text() == "The fox lives at 12 Quay Street."


def test_the_words_of_the_answer_are_bold(library: str, show: Open) -> None:
    page = show(library)
    start = STORY.index("Its keeper, Ansel")
    one = passage(start, 92, match=50, page=7, section="Part I > The Rock")
    answer = told("It was ansel BYRD, in Wales.", one, unsupported=["Wales"])
    page.route(CHAT, answering(answer))
    ask(page, "Who kept the light?")
    item = page.locator("li.passage")
    assert item.locator("b").all_inner_texts() == ["Ansel", "Byrd"]
    assert item.locator(".match").inner_text() == STORY[start : start + 50].strip()
    assert item.locator(".place").inner_text().split("\n") == ["The Rock", "page 7", "3.50"]
    assert page.locator(".answer .alone").inner_text() == "Wales"
    assert "In none of the passages: Wales" in page.locator(".notes").inner_text()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("c")
    page.locator(".toast.shown").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("**Who kept the light?**\n\nIt was ansel BYRD, in Wales.\n\n> **Its k")
    assert "> 1. The lighthouse, The Rock, page 7, characters 69 to 161" in copied


def test_a_long_answer_leaves_the_passages_in_sight(library: str, show: Open) -> None:
    page = show(library, PHONE)
    page.route(CHAT, answering(told("Of one and of the other. " * 100, passage(0, 90, match=60))))
    ask(page, "Who kept the light?")
    assert page.locator("li.passage").first.bounding_box()["y"] < 844  # type: ignore[index]
    page.get_by_text("Show all of the answer").click()
    assert page.locator("li.passage").first.bounding_box()["y"] > 844  # type: ignore[index]
    page.get_by_text("Show less of the answer").click()
    page.get_by_text("Show all of the answer").wait_for()
    page.locator("#new").click()
    page.unroute(CHAT)
    page.route(CHAT, answering(told("at dusk", passage(0, 90, match=60))))
    ask(page, "When?")
    assert not page.get_by_text("Show all of the answer").is_visible()


def test_pages_of_a_pdf_open(serve: Serve, show: Open) -> None:
    page = show(serve())
    lines = ("The ferry leaves at seven.", "Dogs travel free.", "The fox lives on Quay Street.")
    add(page, ("report.pdf", samples.pdf(*lines, title="The report")))
    ask(page, "Where does the fox live?")
    assert "page 3" in page.locator("li.passage .place").first.inner_text()
    pages = page.locator("#reader .page button")
    assert pages.all_inner_texts() == ["page 2", "page 3"]
    with page.expect_popup() as opened:
        pages.last.click()
    opened.value.wait_for_url(re.compile("^blob:.*#page=3$"), wait_until="commit")


def test_a_long_text_is_loaded_where_one_reads(serve: Serve, show: Open) -> None:
    page = show(serve())
    text = "\n\n".join(f"Paragraph {n} has \U0001f98a and nothing else." for n in range(800))
    add(page, ("long.txt", text.encode()))
    page.locator("#documents .name").click()
    shown, frame = page.locator("#reader .text"), page.locator("#reader .scroller")
    shown.locator("span").first.wait_for()
    assert "Paragraph 799 " not in shown.inner_text()
    page.locator("#reader .bar").click(position={"x": 300, "y": 5})  # into the middle
    page.locator("#reader .text", has_text="Paragraph 500 ").wait_for()
    page.locator("#reader .text:not(:has-text('Paragraph 0 '))").wait_for()
    for end, words in (("0", "Paragraph 0 "), ("frame.scrollHeight", "Paragraph 799 ")):
        for _ in range(9):
            frame.evaluate(f"frame => frame.scrollTop = {end}")
            page.wait_for_timeout(50)
            if words in shown.inner_text():
                break
    assert shown.evaluate("shown => shown.textContent") == flowing(text)


def test_the_tree_and_its_scores(library: str, show: Open) -> None:
    page = show(library)
    ask(page, "When does the ferry leave?")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("t")
    nodes = page.locator(".trees .node")
    nodes.first.wait_for()
    assert page.locator(".node.chosen").count() > 0
    assert all("score" in str(one.get_attribute("title")) for one in nodes.all())
    page.locator("#reader").get_by_label("Close the document").click()
    nodes.last.click()
    page.locator("#reader .text span").first.wait_for()
    page.keyboard.press("t")
    assert not page.locator(".trees").is_visible()


def sent(page: Page) -> list[dict[str, Any]]:
    """The questions that the page sends from now on."""
    found: list[dict[str, Any]] = []
    page.on(
        "request",
        lambda one: (
            found.append(json.loads(one.post_data or ""))
            if one.url.endswith("/v1/chat/completions")
            else None
        ),
    )
    return found


def test_only_what_is_chosen_is_asked(library: str, show: Open) -> None:
    page = show(library)
    bodies = sent(page)
    page.get_by_label("Ask The ferry only").check()
    ask(page, "When does it leave?")
    assert {"The ferry"} == set(page.locator("#reader h2").all_inner_texts())
    page.get_by_label("place", exact=True).select_option("Penmor")
    ask(page, "And what does it cost?")
    page.locator(".chip button").first.click()
    assert page.locator(".chip").count() == 0
    ask(page, "Who grew poppies?")
    one, two, three = (body["tools"][0].get("filters") for body in bodies)
    chosen = {"type": "in", "key": "id", "value": ["ferry"]}
    assert one == chosen
    where = {"type": "eq", "key": "place", "value": "Penmor"}
    assert two == {"type": "and", "filters": [chosen, where]}
    assert three is None
    roles = [message["role"] for message in bodies[2]["messages"]]
    assert roles == ["user", "assistant"] * 2 + ["user"]  # follow-ups bring what was said


def test_a_section_is_asked(serve: Serve, show: Open) -> None:
    page = show(serve())
    add(page, ("book.txt", BOOK.encode()))
    bodies = sent(page)
    page.locator("#documents .name").first.click()
    page.get_by_label("Contents").select_option(index=1)
    page.get_by_text("Ask this section").click()
    assert "The Boat" in page.locator(".chip").inner_text()
    ask(page, "When does the ferry leave?")
    assert "section" in bodies[0]
    assert page.locator("li.passage").count() > 0


def test_a_phone_has_room_for_all_of_it(library: str, show: Open) -> None:
    page = show(library, PHONE)
    fits = "document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(fits)
    page.get_by_label("Documents and history").first.click()
    page.locator(".document .name", has_text="The ferry").click()  # the drawer closes behind it
    page.locator("#reader .text span").first.wait_for()
    assert page.evaluate("document.querySelector('#reader').getBoundingClientRect().width") == 390
    page.get_by_label("Close the document").click()
    ask(page, "When does the ferry leave?")
    assert page.evaluate(fits)
    assert not page.locator("#reader").is_visible()  # it would cover the answer
    page.locator("li.passage .rank").first.click()
    page.locator("#reader mark.current").wait_for()
    box = page.locator("#reader mark.current").bounding_box()
    assert box is not None
    assert 0 <= box["y"] <= 844
    assert page.evaluate(fits)
