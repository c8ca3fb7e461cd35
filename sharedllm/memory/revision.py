"""A name for what a memory holds: what was answered from it before a change can be told apart."""

from __future__ import annotations

import hashlib

from sharedllm.memory import rows
from sharedllm.memory.database import Database


class Revision:
    """Names the contents of one memory, looking at them only after a change."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: tuple[int, str] = (-1, "")

    def __call__(self) -> str:
        """32 hex digits over every document's id, title, source, metadata and text."""
        with self._database.read() as connection:
            now = rows.generation(connection)
            if self._seen[0] == now:
                return self._seen[1]
            digest = hashlib.sha256()
            for row in connection.execute(
                "SELECT d.id, d.title, d.source, d.metadata, t.hash FROM documents d "
                "LEFT JOIN texts t ON t.text = d.text ORDER BY d.document"
            ):
                digest.update(repr(row).encode())
        self._seen = (now, digest.hexdigest()[:32])
        return self._seen[1]
