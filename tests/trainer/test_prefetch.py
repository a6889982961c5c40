"""Items made ahead: same order, errors where they belong, no thread left behind."""

import threading
import time
from collections.abc import Iterator

import pytest

from trainer.prefetch import prefetched


def makers() -> int:
    return sum(thread.name == "prefetch" for thread in threading.enumerate())


def test_order_and_items_are_those_of_the_iterator() -> None:
    assert list(prefetched(iter(range(100)), 3)) == list(range(100))
    assert list(prefetched(iter(()), 3)) == []
    assert makers() == 0


def test_an_error_comes_after_the_items_before_it() -> None:
    def broken() -> Iterator[int]:
        yield from (1, 2)
        raise ValueError("third")

    items = prefetched(broken(), 5)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(ValueError, match="third"):
        next(items)


def test_it_works_ahead_but_not_further_than_told() -> None:
    made: list[int] = []

    def counted() -> Iterator[int]:
        for item in range(50):
            made.append(item)
            yield item

    items = prefetched(counted(), 2)
    next(items)
    deadline = time.monotonic() + 10
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    # One given, two ready, one in the hand of the thread.
    assert made == [0, 1, 2, 3]
    items.close()


def test_leaving_early_ends_the_thread() -> None:
    items = prefetched(iter(range(1_000)), 2)
    assert next(items) == 0
    items.close()
    assert makers() == 0
