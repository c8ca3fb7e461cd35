"""Questions about what a whole text deals with, and facts that are asked for in other words.

Topics come from real texts of DEV: one-sentence summaries that people wrote (SciTLDR, CRD3), the
questions of studies and meetings (PubMedQA, QMSum), the titles of manuals, modules and papers,
which are taken out of the text before it is stored, and titles put in a layman's words
(plain_words.py).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.quality.items import Item, read_jsonl
from benchmarks.quality.plain_words import PLAIN_WORDS

LEAST, MOST = 600, 6000  # characters of a text that has one topic
ASKS = ("Which document is about {t}?", "Where is this dealt with: {t}", "{t}")
SUMMARISED = "Which text is this a summary of: {t}"

# -- summaries -------------------------------------------------------------------------------------


def summaries(path: Path) -> Iterator[Item]:
    """Texts whose topic a person has put in other words."""
    for row in read_jsonl(path):
        source, context, answer = row["source"], row["context"].strip(), row["answer"][0].strip()
        if source.startswith(("SciTLDR", "CRD3")):
            asked = SUMMARISED.format(t=re.split(r"(?<=[.!?])\s", answer)[0])
        elif source.startswith(("PubMedQA", "QMSum")):
            asked = row["question"].strip()
        else:
            continue
        if LEAST <= len(context) <= MOST and len(asked.split()) >= 5:
            yield Item(kind="summary", passage=context, question=asked, answers=(answer,))


# -- titles ----------------------------------------------------------------------------------------

_HEADINGS = {
    "linux-doc": re.compile(r"^=+\n([^\n]{8,90})\n=+\n", re.MULTILINE),
    "agda-unimath": re.compile(r"^# ([^\n]{8,90})\n", re.MULTILINE),
}
_MODULE = re.compile(r"^(?:#|//) file: [^\n]*\n", re.MULTILINE)
_DOCSTRING = re.compile(r'\A(?:\s*#[^\n]*\n|\s*\n)*\s*r?"""(.*?)"""', re.DOTALL)


def titles(data: Path) -> Iterator[Item]:
    """Texts without their titles, which are asked for."""
    for name in ("docs", "papers", "code"):
        for row in read_jsonl(data / f"{name}.jsonl.xz"):
            for title, text in _titled(row["source"], row["text"]):
                if len(text) < LEAST or len(title.split()) < 2:
                    continue
                body = text[:MOST].replace(title, "")
                rng = random.Random(title)
                asked = rng.choice(ASKS).format(t=title.rstrip("."))
                yield Item(kind="title", passage=body, question=asked, answers=(title,))


def plain_words(data: Path) -> Iterator[Item]:
    """Texts whose topic is asked for in a layman's words."""
    seen: set[str] = set()
    texts = [(item.answers[0], item.passage) for item in titles(data)]
    for row in read_jsonl(data / "qa.jsonl.xz"):
        if row["source"].startswith("MedQuAD"):
            title, _, text = row["context"].strip().partition("\n")
            texts.append((title.strip(), f"{title.strip()}\n{text}"))
    for title, text in texts:
        if title in PLAIN_WORDS and title not in seen:
            seen.add(title)
            asked = PLAIN_WORDS[title]
            yield Item(kind="plain words", passage=text[:MOST], question=asked, answers=(title,))


def _titled(source: str, text: str) -> Iterator[tuple[str, str]]:
    """(title, what stands under it)"""
    for name, pattern in _HEADINGS.items():
        if name in source:
            found = list(pattern.finditer(text))
            ends = [one.start() for one in found[1:]] + [len(text)]
            for one, end in zip(found, ends, strict=True):
                yield one[1].strip(), text[one.end() : end].strip()
    if "scisumm" in source and not text.startswith("Abstract"):
        title, _, rest = text.partition("\n")
        if len(title) < 150:
            yield title.strip(), rest.partition("\n\n")[2].strip()
    for module in _MODULE.split(text)[1:] if "file: " in text[:200] else ():
        if found := _DOCSTRING.match(module):
            title = " ".join(found[1].strip().split("\n\n")[0].split())
            if "private" not in title and len(title) < 200:
                yield title, module[found.end() :].strip()


# -- facts in other words --------------------------------------------------------------------------

WHO = (
    "doctor/physician lawyer/attorney sailor/mariner thief/burglar teacher/schoolmaster "
    "priest/clergyman soldier/trooper beggar/vagrant shopkeeper/merchant policeman/constable "
    "servant/footman farmer/ploughman drunkard/tippler orphan/foundling widow/dowager "
    "tailor/dressmaker butcher/slaughterer traveller/wayfarer rider/horseman hermit/recluse"
).split()
LIKE = (
    "angry/furious lazy/idle clever/shrewd brave/fearless fat/stout poor/destitute rich/wealthy "
    "sad/sorrowful old/elderly quiet/silent ugly/hideous lonely/solitary famous/celebrated "
    "frightened/terrified"
).split()
DID = (
    "bought/purchase stole/pilfer broke/shatter hid/conceal repaired/mend found/discover "
    "burned/incinerate buried/inter praised/commend threw/hurl washed/cleanse painted/decorate"
).split()
WHAT = (
    "boat/vessel carpet/rug jewel/gem letter/missive horse/steed coat/garment sword/blade "
    "picture/portrait cup/goblet trunk/suitcase necklace/pendant pistol/revolver drum/tambour "
    "lamp/lantern statue/sculpture pie/pastry bottle/flask violin/fiddle chair/stool rope/cord"
).split()
WHERE = (
    "forest/woods meadow/pasture attic/garret shore/beach prison/jail graveyard/cemetery "
    "village/hamlet cellar/basement street/road hill/mound"
).split()


def other_words(n: int, seed: int) -> list[Item]:
    """`n` facts without names; their questions share no noun, verb or adjective with them."""
    rng = random.Random(seed)
    out: dict[str, Item] = {}
    while len(out) < n:
        drawn = (rng.choice(words).split("/") for words in (LIKE, WHO, DID, WHAT, WHERE))
        like, who, did, what, where = drawn
        said = f"The {like[0]} {who[0]} {did[0]} the {what[0]} near the {where[0]}."
        asked = f"When did the {like[1]} {who[1]} {did[1]} the {what[1]} by the {where[1]}?"
        out[asked] = Item(kind="other words", passage=said, question=asked, answers=(said,))
    return list(out.values())
