"""The tables of a tree memory's SQLite file."""

from __future__ import annotations

APPLICATION_ID = 0x53_4C_4C_4D  # "SLLM", in the header of the file
SCHEMA_VERSION = 1

# A text is kept once, whatever documents have it; a chunk once, whatever texts hold it. Row numbers
# are never used again (AUTOINCREMENT), so that an index that is behind cannot mistake a new chunk
# for an old one.
SCHEMA = (
    "CREATE TABLE manifest (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE texts (
        text INTEGER PRIMARY KEY AUTOINCREMENT,
        hash BLOB NOT NULL UNIQUE,       -- of the text itself
        body BLOB NOT NULL,              -- UTF-8, deflated
        characters INTEGER NOT NULL,
        tokens INTEGER NOT NULL
    )""",
    """CREATE TABLE documents (
        document INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        title TEXT NOT NULL,
        source TEXT NOT NULL,
        metadata TEXT NOT NULL,          -- JSON
        text INTEGER NOT NULL REFERENCES texts,
        checksum BLOB NOT NULL
    )""",
    "CREATE INDEX documents_by_text ON documents (text)",
    """CREATE TABLE chunks (
        chunk INTEGER PRIMARY KEY AUTOINCREMENT,
        key BLOB NOT NULL UNIQUE,        -- what it is made of, and by what
        tokens INTEGER NOT NULL,
        layout BLOB NOT NULL,            -- token ids and character spans, deflated
        embedding BLOB NOT NULL,         -- float16, for the prefilter
        checksum BLOB NOT NULL
    )""",
    """CREATE TABLE placed (
        text INTEGER NOT NULL REFERENCES texts,
        ordinal INTEGER NOT NULL,
        chunk INTEGER NOT NULL REFERENCES chunks,
        char_start INTEGER NOT NULL,
        char_end INTEGER NOT NULL,
        PRIMARY KEY (text, ordinal)
    ) WITHOUT ROWID""",
    "CREATE INDEX placed_by_chunk ON placed (chunk, text)",
    "CREATE TABLE shards (shard INTEGER PRIMARY KEY AUTOINCREMENT, file TEXT NOT NULL UNIQUE)",
    """CREATE TABLE arrays (
        chunk INTEGER NOT NULL REFERENCES chunks,
        name TEXT NOT NULL,
        shard INTEGER NOT NULL REFERENCES shards,
        start INTEGER NOT NULL,          -- byte in the shard
        bytes INTEGER NOT NULL,
        dtype TEXT NOT NULL,             -- safetensors' name
        shape TEXT NOT NULL,             -- JSON
        checksum INTEGER NOT NULL,       -- CRC-32
        PRIMARY KEY (chunk, name)
    ) WITHOUT ROWID""",
    "CREATE INDEX arrays_by_shard ON arrays (shard)",
    # How search vectors became codes: a codec of the same model may differ in its last digits on
    # another machine, so it is kept.
    """CREATE TABLE codecs (
        made_by BLOB NOT NULL,           -- the manifest's digest
        name TEXT NOT NULL,
        shape TEXT NOT NULL,             -- JSON
        data BLOB NOT NULL,              -- float32
        checksum BLOB NOT NULL,
        PRIMARY KEY (made_by, name)
    ) WITHOUT ROWID""",
    # Chunks that went away, for an index that has to catch up.
    "CREATE TABLE dropped (chunk INTEGER PRIMARY KEY, generation INTEGER NOT NULL)",
    "CREATE INDEX dropped_by_generation ON dropped (generation)",
    """CREATE VIRTUAL TABLE words USING fts5 (
        text, detail=none, tokenize='unicode61 remove_diacritics 2'
    )""",
)
