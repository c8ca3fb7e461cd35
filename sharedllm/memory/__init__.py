"""Documents that were read once, kept on disk.

This file imports nothing: the command line needs the file's name before it loads torch.
"""

MEMORY_FILE = "memory.sqlite"  # in the folder of every memory
PARTS_FILE = "parts.json"  # in the folder of a memory that is several
