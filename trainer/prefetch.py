"""Makes the next items of an iterator in a thread, so that the host works while the device computes."""

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class _End:
    """What the thread puts last: why it ended."""

    error: BaseException | None


def prefetched(items: Iterable[Item], ahead: int) -> Iterator[Item]:
    """The same items in the same order, at most `ahead` of them made before they are asked for.

    An error of `items` is raised where its item would have come. Leaving the iterator ends the thread.
    """
    ready: queue.Queue[Item | _End] = queue.Queue(maxsize=ahead)
    stopped = threading.Event()

    def make() -> None:
        error = None
        try:
            for item in items:
                ready.put(item)
                if stopped.is_set():
                    return
        except BaseException as raised:  # also an interruption: it is raised again by whoever waits
            error = raised
        ready.put(_End(error))

    thread = threading.Thread(target=make, name="prefetch", daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        _empty(ready)
        thread.join()


def _empty(ready: queue.Queue) -> None:
    """Room for a thread that waits to put its last item."""
    while True:
        try:
            ready.get_nowait()
        except queue.Empty:
            return
