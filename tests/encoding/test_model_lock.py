from __future__ import annotations

import threading

import pytest

from sharedllm import MemoryDocument, SharedLLM
from sharedllm.encoding import document_encoder
from sharedllm.encoding.document_encoder import Reading as Progress
from tests.conftest import Make
from tests.texts import STORY

PATIENCE = 20  # seconds, against hangs


class Reader:
    """A thread that reads a text into a memory, in the background."""

    def __init__(self, make: Make, llm: SharedLLM, **options: str) -> None:
        self.llm = llm
        self.memory = make("watched", **options)
        self.progress: Progress | None = None
        self.cut = threading.Event()
        self.done = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def start(self) -> None:
        self._thread.start()

    def _read(self) -> None:
        with self.llm.encoder.reading(gives_way=True) as self.progress:
            self.cut.set()
            self.memory.add(MemoryDocument(text=STORY * 3, id="long"))
        self.done.set()

    def join(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


@pytest.fixture
def small_passes(llm: SharedLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm.encoder.lower, "batch_tokens", 64)


@pytest.mark.usefixtures("small_passes")
@pytest.mark.parametrize("keep", ["text", "leaves"])
def test_reading_waits_for_questions_and_is_watched(
    make: Make, llm: SharedLLM, monkeypatch: pytest.MonkeyPatch, keep: str
) -> None:
    monkeypatch.setattr(document_encoder, "PATIENCE_S", PATIENCE)
    reader = Reader(make, llm, keep=keep)
    with llm.encoder.lock.question():
        reader.start()
        assert reader.cut.wait(PATIENCE)
        assert not reader.done.wait(0.2)
        assert reader.progress is not None
        assert (reader.progress.tokens_read, len(reader.memory)) == (0, 0)
    assert reader.done.wait(PATIENCE)
    reader.join()
    [stored] = reader.memory.list()
    assert (reader.progress.tokens, reader.progress.tokens_read) == (stored.tokens,) * 2


def test_questions_without_end_do_not_keep_a_text_from_being_read(
    make: Make, llm: SharedLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document_encoder, "PATIENCE_S", 0.01)
    reader = Reader(make, llm)
    with llm.encoder.lock.question():
        reader.start()
        assert reader.done.wait(PATIENCE)
    reader.join()
    assert "long" in reader.memory


def test_who_reads_in_the_foreground_waits_for_nobody(make: Make, llm: SharedLLM) -> None:
    with llm.encoder.lock.question():
        memory = make()
        memory.add(MemoryDocument(text=STORY, id="now"))
    assert "now" in memory


def test_two_texts_are_watched_together(make: Make, llm: SharedLLM) -> None:
    memory = make()
    with llm.encoder.reading(gives_way=True) as progress:
        memory.add([MemoryDocument(text=STORY, id="a"), MemoryDocument(text=STORY[9:], id="b")])
    total = sum(one.tokens for one in memory.list())
    assert (progress.tokens, progress.tokens_read) == (total, total)


def test_a_reading_that_is_ended_goes_on_where_it_was(
    make: Make, llm: SharedLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = make()
    memory.add(MemoryDocument(text="Before.", id="before"))
    monkeypatch.setattr(llm.encoder.lower, "batch_tokens", 64)
    monkeypatch.setattr(memory._working.ingest, "_batch_tokens", 64)
    long = MemoryDocument(text=STORY * 3, id="long")

    class Stopped(Exception):  # noqa: N818
        pass

    def stop() -> None:
        if progress.tokens_read >= 256:
            raise Stopped

    with pytest.raises(Stopped), llm.encoder.reading(stop) as progress:
        memory.add(long)
    assert [one.id for one in memory.list()] == ["before"]
    assert memory.verify().problems == ()
    with llm.encoder.reading() as again:
        memory.add(long)
    assert "long" in memory
    assert progress.tokens == again.tokens
    assert again.tokens is not None
    assert again.tokens_read <= again.tokens - 256
