"""Tree memory: remembered documents kept on disk, searched and answered from."""
