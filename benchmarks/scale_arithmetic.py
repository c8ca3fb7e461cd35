"""What a million and a billion documents take, by arithmetic from measured constants.

    python -m benchmarks.scale_arithmetic

Prints the tables of docs/scale.md. Every constant names where it was measured; what is not measured
is marked as assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DOCUMENTS = (10_000, 1_000_000, 1_000_000_000)
TOKENS = 1_000  # of a document: one chunk, as measured (memory_sizes.json)

BYTES_A_TOKEN = 75.0  # docs/sizing.md, 10,000 documents, keep="text"
VECTOR_BYTES = 64.0  # of these
CPU_TOKENS_S = 11_800.0  # docs/memory.md, adding to 10,000 documents, one thread of an AMD EPYC
GPU_TOKENS_S = 1e6 / 2.1  # docs/speed.md: search vectors of 1M tokens in 2.1 s, one H200
PREFILTER_S = 0.063  # experiment 38, median at 10,015 chunks, two threads
AFTER_S = 0.40 - 0.063  # experiment 38: what follows it, words and vectors of 128 chunks
MEASURED_CHUNKS = 10_015
LOOKED_UP = 60_000  # rows of the index at most for a question (sharedllm/memory/prefilter.py)
FINDABLE_S = 5e-6  # a row: the check at the first search of a process (docs/memory.md)
KEY_BYTES = 60  # of a chunk's key and its index, for knowing duplicates (assumed)
PARTS = (1, 8, 64, 512, 4096)

GPU_HOUR, CPU_HOUR, DISK_MONTH = 3.0, 0.04, 0.08  # dollars: an H200, a core, a GB of SSD (assumed)
FAN_OUT_S = 0.001  # to ask a part on another machine and hear its candidates (assumed)


@dataclass(frozen=True)
class Size:
    """A number of documents, and what follows from it."""

    documents: int

    @property
    def tokens(self) -> float:
        return self.documents * TOKENS

    @property
    def bytes(self) -> float:
        return self.tokens * BYTES_A_TOKEN

    @property
    def cpu_hours(self) -> float:
        return self.tokens / CPU_TOKENS_S / 3600

    @property
    def gpu_hours(self) -> float:
        return self.tokens / GPU_TOKENS_S / 3600

    def search_s(self, parts: int) -> tuple[float, float]:
        """Seconds of a search, at least and at most, with each part on a machine of its own.

        The rows that are looked up are limited, for all parts together. At least: the measured
        memory was at the limit already; at most: it grows with the chunks up to it.
        """
        grown = max(1.0, min(LOOKED_UP, self.documents) / MEASURED_CHUNKS)
        apart = FAN_OUT_S if parts > 1 else 0.0
        least, most = PREFILTER_S / parts, PREFILTER_S * grown / parts
        return least + apart + AFTER_S, most + apart + AFTER_S

    def unlimited_core_s(self, parts: int) -> float:
        """Core seconds of a question if each part has the limit for itself."""
        own = min(LOOKED_UP, self.documents / parts)
        return parts * PREFILTER_S * max(1.0, own / MEASURED_CHUNKS)

    def common(self) -> float:
        """The share of all chunks that a word may be in and still be looked up within the limit."""
        return min(1.0, LOOKED_UP / self.documents)


def table(rows: Sequence[Sequence[str]]) -> None:
    """Print a table of Markdown; its first row is the head."""
    for number, row in enumerate(rows):
        print("| " + " | ".join(row) + " |")
        if not number:
            print("|" + "---|" * len(row))
    print()


def short(value: float) -> str:
    """A number with two digits that count."""
    for size, name in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{name}"
    return f"{value:,.2g}" if value < 100 else f"{value:,.0f}"


def main() -> None:
    """Print the tables."""
    sizes = [Size(documents) for documents in DOCUMENTS]
    names = ["", *(f"{size.documents:,} documents" for size in sizes)]
    table(
        [
            names,
            ["tokens", *(short(size.tokens) for size in sizes)],
            ["bytes on disk", *(f"{short(size.bytes)}B" for size in sizes)],
            ["of these search vectors", *(f"{short(s.tokens * VECTOR_BYTES)}B" for s in sizes)],
            ["ingest, core hours", *(short(size.cpu_hours) for size in sizes)],
            ["ingest, GPU hours", *(short(size.gpu_hours) for size in sizes)],
            ["ingest on GPUs, $", *(short(size.gpu_hours * GPU_HOUR) for size in sizes)],
            ["ingest on cores, $", *(short(size.cpu_hours * CPU_HOUR) for size in sizes)],
            ["disk, $ a month", *(short(size.bytes / 1e9 * DISK_MONTH) for size in sizes)],
        ]
    )
    table(
        [
            ["parts", *(f"a part at {size.documents:,}" for size in sizes[1:])],
            *(
                [f"{parts:,}", *(f"{short(size.bytes / parts)}B" for size in sizes[1:])]
                for parts in PARTS
            ),
        ]
    )
    table(
        [
            ["", *names[1:]],
            *(
                [
                    f"a search, seconds, {parts:,} part{'s' if parts > 1 else ''}",
                    *("{:.2f} to {:.2f}".format(*size.search_s(parts)) for size in sizes),
                ]
                for parts in PARTS[:3]
            ),
            [
                "core seconds of its prefilter if each of 4,096 parts had the limit for itself",
                *(f"{size.unlimited_core_s(4096):,.0f}" for size in sizes),
            ],
            [
                "the first search of a process, seconds, one machine",
                *(short(2 * size.documents * FINDABLE_S) for size in sizes),
            ],
            [
                "a word is looked up if at most this share of chunks holds it",
                *(f"{short(100 * size.common())} %" for size in sizes),
            ],
            [
                "memory for the keys of all chunks, to know duplicates",
                *(f"{short(size.documents * KEY_BYTES)}B" for size in sizes),
            ],
        ]
    )


if __name__ == "__main__":
    main()
