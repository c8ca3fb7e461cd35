"""Forty questions of a new user about documents of their own, beside BM25 read by the same weights.

    python -m benchmarks.quality.forty [--adapter FOLDER] [--out FILE.json]

The documents are a lease, minutes, a table of invoices and a page about a product, written for
this, among three whole novels (half a million tokens). All are asked at once, with the default
settings; BM25 ranks and selects the same leaves under its best budget of four, which is more than
a user could know. The questions were written before anything was asked, and nothing is chosen by
them. An answer is right if it holds all of the given words, each in one of its spellings.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.quality.novels import BOOKS, NOVELS
from sharedllm import Document, SharedLLM
from sharedllm.generation.prompt import ABSENT

LEASE = """Lease of the ground floor at 14 Harbour Lane

1. Parties. The landlord is Brightwater Estates Ltd. The tenant is Ines Calloway, who trades as
Calloway Bindery.

2. Term. The lease begins on 1 March 2024 and runs for five years. The tenant may end it after
three years if she gives six months' notice in writing.

3. Rent. The rent is 1,850 euros a month, due on the third working day. It rises by two per cent on
every first of March. A deposit of 5,550 euros is held by the Harbour Savings Bank.

4. Use. The premises may be used as a workshop for binding and repairing books. Subletting is not
allowed. Dogs are allowed; machines louder than 70 decibels may run from eight to six on weekdays
only, because the flat above is let to a night nurse.

5. Repairs. The landlord repairs the roof, the outer walls and the heating. The tenant repairs
windows, locks and lamps.

6. Keys. Three keys were handed over: one for the front door, one for the yard and one for the
letter box.
"""
MINUTES = """Minutes of the allotment society, 9 October 2024

Present: Marta Oyelaran (chair), Piet Vos (treasurer), Suda Raman, Tom Albrecht. Apologies: Lena
Fisk.

The treasurer reported 3,412 euros in the account, 290 more than last year, because the plant sale
brought in more than expected.

Water. The old pump broke in August. The society will buy a solar pump, since the price of diesel
has doubled. Tom Albrecht gets three offers before the end of November. Until then members carry
water from the brook.

Bees. Suda Raman may keep four hives behind plot 27. Two members had asked for a distance of ten
metres from the path; it was agreed to.

The waiting list has 41 names. Plots 8, 19 and 33 become free in January.

The next meeting is on 4 December at seven in the library. Lena Fisk will bring the draft of the new
rules.
"""
PRODUCT = """Aurora 3 table lamp

The Aurora 3 is a table lamp with a battery. It weighs 640 grams and shines for 18 hours at 200
lumens, or for five hours at 600 lumens. It is charged by USB-C in two and a half hours. The shade
is of recycled glass, the foot of oiled oak. It was designed by Nadia Kessler in 2022 and is made in
Porto.

Dim it by turning the shade. To pair it with a phone, hold the foot for four seconds until the light
blinks twice. The lamp is splash-proof, but not made for the outdoors: frost damages the battery.

The guarantee is three years; the battery is excepted after the first. Spare shades come in amber,
smoke and clear.
"""
CITIES = ("Lisbon", "Ghent", "Turin", "Malmo", "Cork", "Graz", "Brno", "Riga")
GOODS = ("paper", "glue", "thread", "leather", "board", "foil")


def invoices() -> str:
    """A table of 60 invoices, of which each number, amount and customer is there once."""
    draw = random.Random(40)
    numbers = draw.sample(range(20000, 99999), 60)
    amounts = draw.sample(range(120, 4900), 60)
    rows = [
        f"{number},{draw.choice(CITIES)},{draw.choice(GOODS)},{amount}.00,"
        f"2024-{draw.randint(1, 12):02d}-{draw.randint(1, 28):02d}"
        for number, amount in zip(numbers, amounts, strict=True)
    ]
    return "\n".join(["number,city,goods,amount,date", *rows]) + "\n"


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, what its answer has to hold (spellings parted by a bar), and turns before it."""

    kind: str
    question: str
    right: tuple[str, ...]
    before: tuple[tuple[str, str], ...] = ()


def questions() -> list[Asked]:
    """All forty, five of which are about rows of the table."""
    rows = [row.split(",") for row in invoices().splitlines()[1:]]
    lease = ("Who is the tenant at 14 Harbour Lane?", "Ines Calloway")
    lamp = ("Who designed the Aurora 3?", "Nadia Kessler")
    sums = (
        ("What is the amount of invoice {0}?", 3, 4),
        ("Which city is invoice {0} from?", 1, 17),
        ("What goods are on invoice {0}?", 2, 29),
        ("What is the date of invoice {0}?", 4, 41),
        ("What is the amount of invoice {0}?", 3, 55),
    )
    table = [
        Asked("records", text.format(rows[at][0]), (rows[at][column].removesuffix(".00"),))
        for text, column, at in sums
    ]
    return [
        *table,
        Asked("facts", "What is the guarantee of the Aurora 3?", ("three years|3 years",)),
        Asked("facts", "What is the foot of the Aurora 3 made of?", ("oak",)),
        Asked("facts", "Where is the Aurora 3 made?", ("Porto",)),
        Asked("facts", "What may the premises at Harbour Lane be used as?", ("workshop",)),
        Asked("facts", "Where does the allotment society meet next?", ("library",)),
        Asked("numbers", "How much does the Aurora 3 weigh?", ("640",)),
        Asked("numbers", "How high is the deposit for 14 Harbour Lane?", ("5,550",)),
        Asked("numbers", "How much money is in the allotment society's account?", ("3,412",)),
        Asked("numbers", "How many names are on the waiting list for plots?", ("41",)),
        Asked("numbers", "How many hives may be kept behind plot 27?", ("four|4",)),
        Asked("dates", "When does the lease of 14 Harbour Lane begin?", ("1 March 2024",)),
        Asked("dates", "When is the next meeting of the allotment society?", ("4 December",)),
        Asked("dates", "In which year was the Aurora 3 designed?", ("2022",)),
        Asked("who", "Who is the landlord of Harbour Lane?", ("Brightwater",)),
        Asked("who", "Who chairs the allotment society?", ("Marta Oyelaran",)),
        Asked("who", "Who brings the draft of the new rules?", ("Lena Fisk",)),
        Asked("who", "Who will get three offers for a pump?", ("Tom Albrecht",)),
        Asked("why", "Why may loud machines run on weekdays only?", ("nurse",)),
        Asked("why", "Why does the society buy a solar pump?", ("diesel",)),
        Asked("why", "Why should the Aurora 3 not stand outdoors?", ("frost",)),
        Asked("lists", "Which plots become free in January?", ("8", "19", "33")),
        Asked("lists", "In which colours do spare shades come?", ("amber", "smoke", "clear")),
        Asked("lists", "What does the tenant have to repair?", ("windows", "locks", "lamps")),
        Asked("lists", "What does the landlord repair?", ("roof", "walls", "heating")),
        Asked("yes/no", "Is subletting allowed at 14 Harbour Lane?", ("no",)),
        Asked("yes/no", "Are dogs allowed at 14 Harbour Lane?", ("yes",)),
        Asked("yes/no", "Was Lena Fisk present at the meeting in October?", ("no",)),
        Asked("yes/no", "Is the Aurora 3 splash-proof?", ("yes",)),
        Asked("follow-ups", "When may she end the lease?", ("three years|3 years",), (lease,)),
        Asked("follow-ups", "How much rent does she pay?", ("1,850",), (lease,)),
        Asked("follow-ups", "How long does it shine at 200 lumens?", ("18",), (lamp,)),
        Asked("absent", "What is the telephone number of the landlord?", (ABSENT,)),
        Asked("absent", "What does the Aurora 3 cost?", (ABSENT,)),
        Asked("absent", "How old is Piet Vos?", (ABSENT,)),
        Asked("absent", "Who painted the front door of 14 Harbour Lane?", (ABSENT,)),
    ]


def is_right(said: str, asked: Asked) -> bool:
    """Tell if an answer holds all that it has to; of yes and no, as its first word."""
    low = said.lower()
    if asked.kind == "yes/no":
        return low.lstrip().startswith(asked.right[0])
    return all(any(one.lower() in low for one in words.split("|")) for words in asked.right)


def ask(llm: SharedLLM, documents: list[Document], asked: Asked, **options: Any) -> str:
    """Return the answer, asked after the turns before it."""
    turns: list[dict[str, str]] = []
    for question, answer in asked.before:
        turns += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    messages = [*turns, {"role": "user", "content": asked.question}]
    return llm.answer(messages, documents, max_new_tokens=32, **options).text


def main() -> None:
    """Ask all questions of all systems; print the answers, then how many are right."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--adapter", default="default")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    llm = SharedLLM.from_pretrained(adapter=args.adapter)
    texts = {"lease": LEASE, "minutes": MINUTES, "lamp": PRODUCT, "invoices": invoices()}
    texts |= {name: (BOOKS / f"{f}.txt").read_text("utf-8") for name, f in NOVELS.items()}
    documents = [llm.remember(text, title=name) for name, text in texts.items()]
    systems: dict[str, dict[str, Any]] = {"ours": {}}
    for budget in (192, 512, 1024, 2048):
        systems[f"BM25 {budget}"] = {"scorer": "bm25", "rounds": 1, "budget": budget}
    rows = []
    for asked in questions():
        for system, options in systems.items():
            said = ask(llm, documents, asked, **options)
            right = is_right(said, asked)
            rows.append({"system": system, "kind": asked.kind, "right": right, "said": said})
            print("+" if right else "-", f"{system:10}", asked.question, "|", said, flush=True)
    for system in systems:
        own = [row for row in rows if row["system"] == system]
        print(f"{system}: {sum(row['right'] for row in own)} of {len(own)} right")
    if args.out:
        args.out.write_text(json.dumps(rows, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
