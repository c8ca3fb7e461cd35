"""Notes of all chunks, taken before a question needs them: at once, or in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass

from sharedllm.config import GenerationConfig, SearchConfig
from sharedllm.encoding.document import Document
from sharedllm.encoding.document_encoder import DocumentEncoder
from sharedllm.progress import Progress, reporter
from sharedllm.readers.reader import Reader
from sharedllm.whole.reading import PartReader


@dataclass(frozen=True, kw_only=True, slots=True)
class NotesTaken:
    """The outcome of taking notes, in parts of documents: mostly chunks.

    Attributes
    ----------
    taken : int
        Read now.
    kept : int
        There from before.
    left : int
        Not read, as the time was over.
    """

    taken: int
    kept: int
    left: int


class NoteTaking:
    """Takes the notes that documents lack, each of which is kept once its batch is read.

    Parameters
    ----------
    documents : at least one
    generation, search : as the questions have them that the notes are for
    progress : True for a progress bar, or a function of (parts done, parts in all)
    """

    def __init__(
        self,
        documents: Sequence[Document],
        reader: Reader,
        encoder: DocumentEncoder,
        search: SearchConfig,
        generation: GenerationConfig,
        progress: Progress = None,
    ) -> None:
        self._documents, self._reader, self._encoder = documents, reader, encoder
        self._search, self._generation, self._progress = search, generation, progress

    def run(self, goes_on: Callable[[], bool] = lambda: True) -> NotesTaken:
        """Take them; `goes_on` is asked before each batch.

        Raises
        ------
        TreeMemoryError
            Where a memory cannot keep them.
        """
        most = self._search.max_seconds
        parts = PartReader(
            self._reader,
            self._encoder,
            self._documents,
            self._generation,
            deadline=None if most is None else time.perf_counter() + most,
            done=lambda count: report(count),
            keeps=True,
        )
        wanted = parts.to_note(self._search.sentences)
        with reporter(self._progress, len(wanted), "taking notes", "parts") as report:
            batches = parts.note(wanted)
            while goes_on() and next(batches, None) is not None:
                pass
        done = parts.read + parts.kept
        return NotesTaken(taken=parts.read, kept=parts.kept, left=len(wanted) - done)

    def later(self) -> Future[NotesTaken]:
        """Take them in a daemon thread, which pauses while a question is open.

        To cancel the future ends it after the batch that is read.
        """
        done: Future[NotesTaken] = Future()

        def goes_on() -> bool:
            self._encoder.lock.wait_for_idle()
            return not done.cancelled()

        def work() -> None:
            with suppress(InvalidStateError):  # cancelled meanwhile
                try:
                    taken = self.run(goes_on)
                except BaseException as error:  # raised in the caller by Future.result
                    done.set_exception(error)
                else:
                    done.set_result(taken)

        threading.Thread(target=work, name="sharedllm-notes", daemon=True).start()
        return done
