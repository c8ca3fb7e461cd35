"""What MaxSim finds with and without the map of a question's vectors, whole and in 64 bytes each.

    python benchmarks/query_map.py --data DATA --adapter FOLDER --out FILE

Questions over the five volumes of library.py, and RULER's tasks: the share of evidence, of gold
strings, that lies within what is selected, 1,024 attention entries. Nothing is answered.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
from library import library
from library_search import found

from sharedllm import Document, SharedLLM
from sharedllm.evaluation import ruler
from sharedllm.evaluation.sources import Filler
from sharedllm.memory.codes import CodedVectors, VectorCodec

TASKS = ("niah_single_3", "niah_multikey_1", "niah_multivalue", "niah_multiquery", "vt", "two_hop")
FORMS = ("whole", "64 bytes")
Hits = dict[str, dict[str, list[bool]]]  # method -> kind of question -> each item


class Searched:
    """A model that searches with or without the map, in either form of vectors."""

    def __init__(self, llm: SharedLLM, forms: list[str]) -> None:
        self.llm, self._map, self._forms = llm, llm.encoder.lower.query_map, forms
        codec = VectorCodec.fit(llm.encoder.lower.vocabulary())
        self._codec = codec.to(llm.encoder.lower.device)

    def forms(self, document: Document) -> dict[str, Document]:
        coded = CodedVectors(self._codec, self._codec.encode(document.vectors))
        return {"whole": document, "64 bytes": dataclasses.replace(document, vectors=coded)}

    def use(self, mapped: bool) -> None:
        self.llm.encoder.lower.query_map = self._map if mapped else None

    def methods(self) -> Iterator[tuple[str, str]]:
        """The name and the form of vectors of each method, which is in use until the next one."""
        for form in self._forms:
            for mapped in (False, True):
                self.use(mapped)
                yield f"{form}, {'mapped' if mapped else 'as it is'}", form


def libraries(searched: Searched, args: argparse.Namespace, hits: Hits) -> None:
    for seed in args.seeds:
        made = library(args.data, args.items, seed, searched.llm.tokenizer)
        volumes = [
            searched.forms(searched.llm.remember(v.text, title=v.title)) for v in made.volumes
        ]
        for name, form in searched.methods():
            documents = [volume[form] for volume in volumes]
            for index, item in enumerate(made.items):
                home = index % len(documents)
                hit = found(searched.llm, item, documents, home, "maxsim")
                hits[name][item.kind].append(hit)


def tasks(searched: Searched, args: argparse.Namespace, hits: Hits) -> None:
    llm, filler = searched.llm, Filler([str(args.data / "books.jsonl.xz")])
    for task in TASKS:
        for index in range(args.each):
            item = ruler.make(task, index, args.each, args.length, llm.tokenizer, filler, 5)
            forms = searched.forms(llm.remember(item.text))
            for name, form in searched.methods():
                document = forms[form]
                options = {"policy": "maxsim", "budget": 1024, "rest": "none"}
                nodes = llm.select(item.query, document, **options).nodes
                starts, ends = document.forest.start, document.forest.end
                spans = [(int(starts[n.node]), int(ends[n.node])) for n in nodes]
                read = "".join(document.text_of(*span) for span in spans)
                hits[name][task] += [answer in read for answer in item.answers]


def show(hits: Hits) -> None:
    """One line a kind: shares, and how often one method alone finds it."""
    for kind in next(iter(hits.values())):
        each = {name: kinds[kind] for name, kinds in hits.items()}
        shares = ", ".join(f"{name} {100 * sum(x) / len(x):.1f}" for name, x in each.items())
        alone = []
        for form in [form for form in FORMS if f"{form}, mapped" in each]:
            pairs = list(zip(each[f"{form}, as it is"], each[f"{form}, mapped"], strict=True))
            lost, won = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
            alone.append(f"{form} +{won} -{lost}")
        print(f"{kind}: {shares} % of {len(pairs)}; {', '.join(alone)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with books and qa")
    parser.add_argument("--adapter", default="default")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--items", type=int, default=240, help="questions a library")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2], help="of the libraries")
    parser.add_argument("--each", type=int, default=16, help="items of each of RULER's tasks")
    parser.add_argument("--length", type=int, default=32768, help="their tokens")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    llm = SharedLLM.from_pretrained(adapter=args.adapter)
    if llm.encoder.lower.query_map is None:
        raise SystemExit(
            f"the adapter {args.adapter!r} has no map; train one: sharedllm train-search"
        )
    hits: Hits = defaultdict(lambda: defaultdict(list))
    searched = Searched(llm, args.forms)
    libraries(searched, args, hits)
    tasks(searched, args, hits)
    show(hits)
    if args.out:
        about = {"date": time.strftime("%Y-%m-%d"), "device": str(llm.encoder.lower.device)}
        about |= {"threads": torch.get_num_threads(), "length": args.length}
        args.out.write_text(json.dumps({**about, "hits": hits}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
