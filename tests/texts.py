"""Texts that the tests remember."""

from __future__ import annotations

STORY = (
    "The lighthouse stood on a rock two miles from the village of Penmor. Its keeper, Ansel Byrd, "
    "lit the lamp at dusk and wound the clockwork every three hours.\r\n\r\n"
    "In the winter of 1871 a ship called the Halcyon struck the reef. Byrd rowed out alone and "
    "brought back nine men, a caf\u00e9 owner from Z\u00fcrich among them.\n"
    "The owner's daughter, Mirelle, later sent him a brass telescope \U0001f52d. He kept it beside "
    "the lamp \u2014 \u201cfor company\u201d, he said \u2014 until the tower was closed in 1902."
)
FERRY = (
    "The ferry to Penmor leaves at seven in the morning and at four in the afternoon. A ticket "
    "costs two shillings; dogs travel free of charge."
)
GARDEN = "Aunt Odile grew blue poppies behind the chapel. Nobody else could make them flower."

BOOK = "".join(
    f"CHAPTER {number}.\n\n{name}\n\n{text}\n\n"
    for number, name, text in (
        ("I", "The Rock", STORY.replace("\r\n", "\n")),
        ("II", "The Boat", f"{FERRY} In chapter three nobody travels."),
        ("III", "The Chapel", f"{GARDEN} The ferry does not call there, and the lamp is not seen."),
    )
)
