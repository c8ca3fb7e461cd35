"""The tables of docs/choosing.md say what the committed results hold, from which its picture is."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.quality.budget_figure import adapted, untrained

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docs/choosing.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def table(heading: str) -> dict[int, list[float]]:
    """The rows of the table whose first line begins with `heading`, by budget."""
    lines = TEXT[TEXT.index(heading) :].split("\n\n")[0].splitlines()[2:]
    rows = [
        [cell.strip().replace(",", "") for cell in line.strip("|").split("|")] for line in lines
    ]
    return {int(row[0]): [float(cell) for cell in row[1:]] for row in rows}


def percent(scores: object) -> float:
    values = list(scores)  # type: ignore[call-overload]
    return 100 * sum(values) / len(values)


def test_budgets_of_the_untrained_base() -> None:
    right, found = (untrained(measure)["text, maxsim"] for measure in ("right", "evidence"))
    for budget, shown in table("| budget | right % | evidence found % |").items():
        assert shown == pytest.approx([percent(right[budget]), percent(found[budget])], abs=0.051)


def test_budgets_of_the_shipped_adapter() -> None:
    curves = [curve for curve, _ in adapted().values()]
    for budget, shown in table("| budget | multi-key % |").items():
        scores = [percent(curve[budget]) for curve in curves]
        assert shown[:5] == pytest.approx(scores[:5], abs=0.51)
        assert 100 * shown[5] == pytest.approx(scores[5], abs=0.51)
