"""Files that writers left behind when they were killed."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

ABANDONED_S = 3600  # an index is saved in seconds, by readers, without the write lock


def remove_orphans(folder: Path, connection: sqlite3.Connection) -> None:
    """Unlink shards that no row names; only a writer may, while it holds the lock."""
    named = {str(file) for (file,) in connection.execute("SELECT file FROM shards")}
    for path in (folder / "shards").iterdir():
        if path.name not in named:
            path.unlink(missing_ok=True)
    for path in (folder / "index").glob("*.tmp"):
        if path.stat().st_mtime < time.time() - ABANDONED_S:
            path.unlink(missing_ok=True)
