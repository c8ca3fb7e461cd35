"""Memory and speed of a model in bf16, 8 bits and 4 bits, with random weights of a shape.

    python -m benchmarks.quantized --model llama8b-shaped --out benchmarks/results/quantized.jsonl
    python -m benchmarks.quantized --table benchmarks/results/quantized.jsonl

The weights are written once to a scratch folder (16 GB for 8 billion), and each form is loaded from
there in a fresh process, as a user would load it. `--small` does all of it with a tiny shape.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.models import SHAPES, byte_tokenizer, text

WINDOW = 1 << 16
FORMS = ("none", "8bit", "4bit")
GIB = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One form of the weights.

    Attributes
    ----------
    form : "none", "8bit" or "4bit"
    weights_gib : allocated on the GPU after loading; on the CPU the bytes of the parameters
    peak_gib : while it is loaded and used; of the whole process on the CPU
    encode_tokens_s, prefill_tokens_s, decode_tokens_s : tokens a second
        Of the coarse level's KV, of a prompt with evidence as text, and of an answer.
    """

    model: str
    form: str
    device: str
    load_s: float
    weights_gib: float
    peak_gib: float
    prompt_tokens: int
    encode_tokens_s: float
    prefill_tokens_s: float
    decode_tokens_s: float
    versions: dict[str, str]


def write_shape(name: str, folder: Path) -> None:
    """Write a model of a shape with random weights in bf16, and its tokenizer."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        max_position_embeddings=WINDOW, bos_token_id=None, eos_token_id=256, **SHAPES[name]
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)


def measured(
    folder: Path, quantize: str | None, *, device: str, prompt: int, new_tokens: int
) -> Row:
    """Load the model in `folder` in one form, and time a question about `prompt` tokens."""
    from sharedllm import SharedLLM

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    llm = SharedLLM.from_pretrained(folder, device=device, dtype="bfloat16", quantize=quantize)
    gc.collect()  # what was read and packed
    cuda = llm.model.device.type == "cuda"
    weights = torch.cuda.memory_allocated() if cuda else parameter_bytes(llm.model)
    document = llm.remember(text(2 * prompt))
    options: dict[str, Any] = {"budget": prompt, "leaves": "text", "coarse": "none"}
    llm.answer("What?", document, max_new_tokens=2, **options)  # compiles and fills caches
    answer = llm.answer("What?", document, max_new_tokens=new_tokens, **options)
    seconds = timed(llm, document)
    peak = torch.cuda.max_memory_allocated() if cuda else _resident()
    return Row(
        model=folder.name,
        form=quantize or "none",
        device=torch.cuda.get_device_name() if cuda else platform.processor() or "cpu",
        load_s=round(llm.encoder.load_s, 2),
        weights_gib=round(weights / GIB, 6),
        peak_gib=round(peak / GIB, 6),
        prompt_tokens=answer.usage.prompt_tokens,
        encode_tokens_s=round(len(document) / seconds, 1),
        prefill_tokens_s=round(answer.usage.prompt_tokens / answer.timings.prefill_s, 1),
        decode_tokens_s=round(answer.usage.new_tokens / answer.timings.decode_s, 1),
        versions=_versions(),
    )


def timed(llm: Any, document: Any) -> float:
    """Seconds that the KV of the coarse level takes."""
    import time

    started = time.perf_counter()
    llm.encode(document)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def parameter_bytes(model: Any) -> int:
    """Bytes of the parameters, with the scales of packed ones."""
    total = 0
    for weights in model.parameters():
        total += weights.nbytes
        state = getattr(weights, "quant_state", None)
        if state is not None:
            total += state.absmax.nbytes + (state.state2.absmax.nbytes if state.nested else 0)
        scales = getattr(weights, "SCB", None)
        total += 0 if scales is None else scales.nbytes
    return total


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def _versions() -> dict[str, str]:
    import bitsandbytes
    import transformers

    packages = {"torch": torch, "transformers": transformers, "bitsandbytes": bitsandbytes}
    return {name: package.__version__ for name, package in packages.items()}


def table(rows: list[dict[str, Any]]) -> str:
    """The table of docs/speed.md."""
    lines = [
        "| weights | GiB of weights | GiB at most | load | KV, tokens/s | prompt, tokens/s | "
        "answer, tokens/s |",
        "|---|---|---|---|---|---|---|",
    ]
    names = {"none": "bf16", "8bit": "8 bits", "4bit": "4 bits"}
    for row in rows:
        speeds = (f"{row[f'{kind}_tokens_s']:,.0f}" for kind in ("encode", "prefill", "decode"))
        lines.append(
            f"| {names[row['form']]} | {row['weights_gib']:.1f} | {row['peak_gib']:.1f} | "
            f"{row['load_s']:.0f} s | {' | '.join(speeds)} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure all forms, or print the table of a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="llama8b-shaped", choices=SHAPES)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--prompt", type=int, default=4096, help="tokens of evidence")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--scratch", type=Path, help="keeps the weights there")
    parser.add_argument("--small", action="store_true", help="a tiny shape, 256 tokens")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, help="print the table of this file, measure nothing")
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.table:
        lines = args.table.read_text(encoding="utf-8").splitlines()
        print(table([json.loads(line) for line in lines]))
        return
    if args.small:
        args.model, args.prompt, args.new_tokens = "tiny", 256, 8
    with tempfile.TemporaryDirectory() as scratch:
        folder = (args.scratch or Path(scratch)) / args.model
        if args.form:
            quantize = None if args.form == "none" else args.form
            sizes = {"prompt": args.prompt, "new_tokens": args.new_tokens}
            row = measured(folder, quantize, device=args.device, **sizes)
            print(json.dumps(asdict(row)))
            return
        if not (folder / "config.json").exists():
            write_shape(args.model, folder)
        rows = [_in_a_process(args, form, folder.parent) for form in FORMS]
    if args.out:
        args.out.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    print(table(rows))


def _in_a_process(args: argparse.Namespace, form: str, scratch: Path) -> dict[str, Any]:
    given = {"model": args.model, "device": args.device, "prompt": args.prompt}
    given |= {"new-tokens": args.new_tokens, "scratch": scratch, "form": form}
    options = [f"--{name}={value}" for name, value in given.items()]
    command = [sys.executable, "-m", "benchmarks.quantized", *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


if __name__ == "__main__":
    main()
