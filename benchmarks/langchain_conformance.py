"""LangChain's conformance suite for chat models on any model, with no failure expected.

    python -m benchmarks.langchain_conformance --model Qwen/Qwen2.5-1.5B-Instruct --device cuda \
        --out benchmarks/results/langchain_conformance.json

`make test-all` runs the same suite on the embedded default model, where tests/integrations expects
what 135M parameters cannot do to fail. Here every test has to pass by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

SUITE = "tests/integrations/langchain/test_chat_suite.py"


def run(model: str | None, device: str, report: Path) -> int:
    """Run the suite; its exit code."""
    own = {"SHAREDLLM_CONFORMANCE_DEVICE": device}
    if model:
        own["SHAREDLLM_CONFORMANCE_MODEL"] = model
    options = ["-m", "", "--runxfail", "--timeout=0", "-q", f"--junitxml={report}"]
    command = [sys.executable, "-m", "pytest", SUITE, *options]
    return subprocess.run(command, env={**os.environ, **own}, check=False).returncode


def outcomes(report: Path) -> dict[str, list[str]]:
    """The tests that passed, failed and were skipped."""
    out: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        kind = "failed" if kinds & {"failure", "error"} else "passed"
        out["skipped" if "skipped" in kinds else kind].append(case.get("name", ""))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="Hugging Face name or folder; none is the default model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        code = run(args.model, args.device, report)
        found = outcomes(report)
    result = {
        "model": args.model or "the embedded default",
        "device": args.device,
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(time.perf_counter() - started),
        **{kind: len(names) for kind, names in found.items()},
        "failures": found["failed"],
    }
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    raise SystemExit(code)


if __name__ == "__main__":
    main()
