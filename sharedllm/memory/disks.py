"""The file system that a folder lies on, and the journal that SQLite's files need there."""

from __future__ import annotations

import functools
import os
from pathlib import Path

SHARED_DISKS = frozenset(
    "nfs nfs4 cifs smb3 smbfs afs ceph lustre gpfs beegfs glusterfs gfs2 ocfs2 9p webdav".split()
)


@functools.lru_cache(maxsize=64)
def _kind_of_disk(place: str, device: int) -> str:
    """The type of the file system with that folder; `device` is the key of what is remembered."""
    import psutil

    mounted = [one for one in psutil.disk_partitions(all=True) if _is_below(place, one.mountpoint)]
    return max(mounted, key=lambda one: len(one.mountpoint)).fstype if mounted else ""


def _is_below(place: str, folder: str) -> bool:
    return place == folder or place.startswith(folder.rstrip("/") + "/")


def journal_of(folder: Path) -> str:
    """The journal that SQLite's files in a folder need: DELETE where other machines share them.

    A write-ahead log is faster, and needs memory that all its users share, so that they must be on
    one machine: https://sqlite.org/wal.html
    """
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    kind = _kind_of_disk(os.path.realpath(there), there.stat().st_dev)
    return "DELETE" if kind in SHARED_DISKS or kind.startswith("fuse.") else "WAL"
