"""Simple questions about the shipped novels, which are like nothing that adapters are trained on.

    python -m benchmarks.quality.novels ADAPTER [ADAPTER ...]     folders, or default

Asked are the first 60,000 characters of each novel and a page of short stories, with the default
settings, one question at a time. The questions were written by hand and serve to choose between
adapters; an answer is right if it holds one of the given words.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from sharedllm import SearchConfig, SharedLLM
from sharedllm.generation.prompt import ABSENT
from tests.texts import FERRY, GARDEN, STORY

QUESTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("mayor", "How much money does the sailor pay for Susan?", ("five guineas",)),
    ("mayor", "Who is Elizabeth-Jane's mother?", ("Susan", "Mrs. Newson", "Mrs. Henchard")),
    ("mayor", "For how many years does Henchard swear to avoid strong liquors?", ("21", "twenty")),
    ("mayor", "What does the furmity woman put into the furmity?", ("rum",)),
    ("mayor", "What is the name of the sailor?", ("Newson",)),
    ("comrade", "What colour is the daffodil?", ("blue",)),
    ("comrade", "Who is the old Dutchman that stayed nearly a week?", ("Van Heigen",)),
    ("comrade", "How much does Cross think a blue daffodil is worth?", ("400",)),
    ("alas", "What does Burgoyne read aloud to the women?", ("Lirriper",)),
    ("alas", "What is the name of the astronaut's spaceship?", (ABSENT,)),
    ("stories", "What time does the ferry to Penmor leave in the morning?", ("seven",)),
    ("mayor", "Who buys Susan?", ("Newson", "sailor")),
    ("mayor", "Does the sailor buy Susan?", ("yes",)),
    ("mayor", "What is the name of the hay-trusser?", ("Henchard",)),
    ("mayor", "How old is Elizabeth-Jane?", ("eighteen", "12", "twelve", "18")),
    ("alas", "In which city does the story begin?", ("Genoa",)),
    ("mayor", "What is the trade of Michael Henchard at the beginning?", ("trusser",)),
    ("mayor", "Where did Henchard sell his wife?", ("Weydon", "fair", "tent")),
    ("mayor", "What did the man drink in the furmity tent?", ("furmity", "rum")),
    ("mayor", "Where does Susan throw her wedding-ring?", ("booth", "face", "tent")),
    ("mayor", "What is the name of the Scotchman?", ("Farfrae",)),
    ("mayor", "At which hotel does Farfrae stay?", ("Three Mariners", "King")),
    ("comrade", "Which newspaper or paper does Captain Polkington read?", ("paper", "Times")),
    ("comrade", "What is the name of the wife of Captain Polkington?", ("Polkington",)),
    ("comrade", "How many daughters does Captain Polkington have?", ("three",)),
    ("stories", "Who is the keeper of the lamp?", ("Mara", "Elin", "keeper")),
    ("mayor", "What is the name of Michael Henchard's wife?", ("Susan",)),
    ("alas", "Who wrote 'Mrs. Lirriper's Lodgings'?", ("Dickens",)),
    ("mayor", "What did Henchard lay on the Bible?", ("head",)),
    ("mayor", "What is the capital of Peru?", (ABSENT,)),
    ("comrade", "Who won the football match?", (ABSENT,)),
    ("alas", "What is the price of the laptop?", (ABSENT,)),
)
NEW_TOKENS = 24
BOOKS = Path(__file__).parents[2] / "cookbooks" / "data"
NOVELS = {
    "mayor": "the_mayor_of_casterbridge",
    "comrade": "the_good_comrade",
    "alas": "alas",
}
CHARACTERS = 60_000


def _beginning(name: str) -> str:
    return (BOOKS / f"{name}.txt").read_text(encoding="utf-8")[:CHARACTERS]


def ask(adapter: str) -> None:
    """Ask all questions and print what was said, then how many are right and were refused."""
    llm = SharedLLM.from_pretrained(adapter=adapter, search=SearchConfig())
    documents = {name: llm.remember(_beginning(file), title=name) for name, file in NOVELS.items()}
    documents["stories"] = llm.remember("\n\n".join([STORY, GARDEN, FERRY]), source="book.txt")
    right = refused = 0
    for name, question, allowed in QUESTIONS:
        said = llm.answer(question, documents[name], max_new_tokens=NEW_TOKENS).text
        fits = any(one.lower() in said.lower() for one in allowed)
        right, refused = right + fits, refused + (ABSENT in said.lower())
        print("+" if fits else "-", question, "|", said, flush=True)
    print(f"{adapter}: {right} of {len(QUESTIONS)} right, abstains on {refused}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("adapters", nargs="+")
    torch.set_num_threads(1)
    for adapter in parser.parse_args().adapters:
        ask(adapter)


if __name__ == "__main__":
    main()
