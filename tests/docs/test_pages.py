"""The documents: their links lead somewhere, and they build as a site that loads nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.notebooks.running import COOKBOOKS

ROOT = COOKBOOKS.parent
DOCS = ROOT / "docs"
CONFIG = DOCS / "site" / "mkdocs.yml"
PAGES = sorted(DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), target


def test_every_page_is_in_the_navigation() -> None:
    navigation = CONFIG.read_text(encoding="utf-8").partition("\nnav:")[2]
    for page in PAGES:
        assert page.relative_to(DOCS).as_posix() in navigation


class Loaded(HTMLParser):
    """What a page makes a browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.places.append(given.get("src") or "")
        if tag == "link" and given.get("rel") != "canonical":
            self.places.append(given.get("href") or "")


@pytest.mark.notebook
def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(
        [*command, "--config-file", str(CONFIG), "--site-dir", str(tmp_path / "site")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(PAGES) + len(list(COOKBOOKS.glob("*.ipynb")))  # and that of errors
    for page in pages:
        loaded = Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        assert not [place for place in loaded.places if re.match(r"(https?:)?//", place)], page
    reference = (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
    for name in ("SharedLLM", "TreeMemory", "SearchConfig", "ChatSharedLLM", "TreeMemoryIndex"):
        assert f">{name}<" in reference
