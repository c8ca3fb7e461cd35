"""Progress of long work: a rich bar with tokens a second, or the caller's function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = bool | Callable[[int, int], None] | None
Reporter = Callable[[int], None]


@contextmanager
def reporter(progress: Progress, total: int, title: str) -> Iterator[Reporter]:
    """Give a function that takes the number of tokens just done.

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
        yield from _bar(total, title)


def _bar(total: int, title: str) -> Iterator[Reporter]:
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.0f} tokens/s" if speed else "", style="progress.data.speed")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} tokens"),
        Rate(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(title, total=total)
        yield lambda tokens: bars.advance(task, tokens)
