"""A blocking iterator -> an asynchronous one: it runs in a thread, the event loop never waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from sharedllm_integrations.engine import CancelledRequest

T = TypeVar("T")
THREADS, STREAMS = 8, 64
_workers = ThreadPoolExecutor(THREADS, thread_name_prefix="sharedllm")
# apart, so that short work does not wait for the end of answers
_streams = ThreadPoolExecutor(STREAMS, thread_name_prefix="sharedllm-stream")
_END = object()


async def in_thread(work: Callable[[], T], cancelled: threading.Event | None = None) -> T:
    """The result of `work`; sets `cancelled` when nobody waits for it any more."""
    future = asyncio.get_running_loop().run_in_executor(_workers, work)
    try:
        return await future
    except asyncio.CancelledError:
        if cancelled is not None:
            cancelled.set()
        raise


async def iterated(
    make: Callable[[], Iterator[T]], cancelled: threading.Event
) -> AsyncGenerator[T]:
    """The items of the iterator that `make` gives, which runs ahead in a thread.

    Sets `cancelled` when nobody takes the items any more.
    """
    loop = asyncio.get_running_loop()
    items: asyncio.Queue[Any] = asyncio.Queue()

    def hand_over(item: Any) -> None:
        with suppress(RuntimeError):  # the loop was closed: nobody waits
            loop.call_soon_threadsafe(items.put_nowait, item)

    def run() -> None:
        try:
            for item in make():
                hand_over(item)
                if cancelled.is_set():
                    break
        except CancelledRequest:
            pass
        except BaseException as error:  # raised again where it is awaited
            hand_over((_END, error))
            return
        hand_over((_END, None))

    _streams.submit(run)
    try:
        while True:
            item = await items.get()
            if isinstance(item, tuple) and len(item) == 2 and item[0] is _END:
                if item[1] is not None:
                    raise item[1]
                return
            yield item
    finally:
        cancelled.set()
