"""Subtitles (SRT, WebVTT) -> what is said, a paragraph a minute, with the time it begins at.

Cues are joined, because sentences run over several of them; a cue that repeats the one before, as
captions that roll do, is left out.
"""

from __future__ import annotations

import re

from sharedllm.errors import DocumentError
from sharedllm.text.loaders.encodings import decode
from sharedllm.text.loaders.html import html_text
from sharedllm.text.loaders.source import Contents, Given

TIMES = re.compile(
    r"^[ \t]*(?:(\d{1,5}):)?(\d{1,2}):(\d{2})[.,]\d{1,3}[ \t]+-->[ \t]+(?:\d{1,5}:)?\d{1,2}:\d{2}"
)
MARKS = re.compile(r"<[^<>\n]{0,200}>|\{\\[^{}\n]{0,200}\}")
PARAGRAPH_S = 60


def read_subtitles(given: Given) -> Contents:
    """Return the words of subtitles.

    Raises
    ------
    DocumentError
        If no cue has a time.
    """
    said: list[tuple[int, str]] = []  # second, line
    second, in_cue = None, False
    for line in decode(given).replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        times = TIMES.match(line)
        if times:
            hours, minutes, seconds = (int(t or 0) for t in times.groups())
            second, in_cue = 3600 * hours + 60 * minutes + seconds, True
        elif not line.strip():
            in_cue = False
        elif in_cue and second is not None:
            words = " ".join(html_text(MARKS.sub("", line)).split())
            if words and words not in (text for _, text in said[-2:]):
                said.append((second, words))
    if not said:
        raise DocumentError(f"{given.source} has no subtitles: no line of times with text below")
    paragraphs: list[tuple[int, list[str]]] = []
    for second, words in said:
        if not paragraphs or not 0 <= second - paragraphs[-1][0] < PARAGRAPH_S:
            paragraphs.append((second, []))
        paragraphs[-1][1].append(words)
    return Contents(
        "\n\n".join(f"[{_time(at)}] {' '.join(lines)}" for at, lines in paragraphs), "", ()
    )


def _time(second: int) -> str:
    return f"{second // 3600}:{second // 60 % 60:02}:{second % 60:02}"
