"""Progress of long work: a rich bar with tokens a second, or the caller's function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Column

WIDE = 100  # columns of a terminal from which the time left is shown
SHORTEST = 0.1  # seconds; a rate over less time is noise

Progress = bool | Callable[[int, int], None] | None
Reporter = Callable[[int], None]


@contextmanager
def reporter(
    progress: Progress, total: int, title: str, unit: str = "tokens"
) -> Iterator[Reporter]:
    """Yield a function to call with the number of tokens (or of another `unit`) just done.

    Parameters
    ----------
    progress : True draws a bar on standard error; a function is called with (done, total)
    """
    if not progress or not total:
        yield lambda tokens: None
    elif callable(progress):
        done = 0

        def report(tokens: int) -> None:
            nonlocal done
            done += tokens
            progress(done, total)

        yield report
    else:
        yield from _bar(total, title, unit)


def _bar(total: int, title: str, unit: str) -> Iterator[Reporter]:
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.table import Column
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            if not speed or (task.elapsed or 0) < SHORTEST:
                return Text("")
            number = f"{speed:,.0f}" if speed < 1e6 else f"{speed / 1e6:,.1f}M"
            number = f"{speed:.1f}" if speed < 10 else number
            return Text(f"{number} {unit}/s", style="progress.data.speed")

    console = Console(stderr=True)
    wide = console.width >= WIDE
    bar_width, time_left = (24, (TimeRemainingColumn(),)) if wide else (12, ())
    counts = 2 * len(f"{total:,}") + len(f"/ {unit}")
    rate_width = len(f"100,000 {unit}/s")
    taken = counts + rate_width + bar_width + (len(" 0:00:00") if wide else 0) + 3
    name = Text("".join(c for c in title if c.isprintable()))  # a title may be a document's own
    name.truncate(max(console.width - taken, 8), overflow="ellipsis")
    columns = (
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width, table_column=Column(no_wrap=True)),
        TextColumn(f"{{task.completed:,.0f}}/{{task.total:,.0f}} {unit}", table_column=_numbers()),
        Rate(table_column=_numbers(rate_width)),
        *time_left,
    )
    with Bars(*columns, console=console) as bars:
        task = bars.add_task(name.plain, total=total)
        yield lambda tokens: bars.advance(task, tokens)


def _numbers(width: int | None = None) -> Column:
    from rich.table import Column

    return Column(no_wrap=True, justify="right", min_width=width)
