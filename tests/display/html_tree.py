"""HTML as a reader's program sees it: elements, attributes, and what does not fit together."""

from __future__ import annotations

from collections.abc import Collection
from html.parser import HTMLParser

VOID = ("meta", "br", "img", "link", "input", "hr")


class Parsed(HTMLParser):
    """Elements with their attributes, in order, and the text outside of the style sheet.

    Attributes
    ----------
    elements : list of (tag, attributes)
    text : str
    unclosed : list of str
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.unclosed: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.unclosed.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.unclosed.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.unclosed[-1:] != ["style"]:
            self.text += data

    def every(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of all elements called `tag`."""
        return [attributes for name, attributes in self.elements if name == tag]

    def ids(self) -> list[str]:
        return [str(a["id"]) for _, a in self.elements if "id" in a]

    def links(self) -> list[str]:
        return [str(a["href"]) for _, a in self.elements if "href" in a]


def check(html: str, files: Collection[str] = ()) -> Parsed:
    """`html`, whole, with unique ids, that loads and runs nothing; links lead to ids or `files`."""
    parsed = Parsed(html)
    assert parsed.unclosed == []
    ids = parsed.ids()
    assert len(ids) == len(set(ids))
    out = [link for link in parsed.links() if not (link.startswith("#") and link[1:] in ids)]
    assert set(out) == set(files)
    for tag, attributes in parsed.elements:
        assert tag not in ("script", "img", "iframe", "link", "object", "form", "base")
        assert not any(name.startswith("on") or name == "src" for name in attributes)
    assert "http://" not in html
    assert "https://" not in html
    assert "url(" not in html
    return parsed
