"""What a server's process uses while it is measured: processor time and memory, its children's included."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

from pipeline.runner import StepError

_SAMPLE_SECONDS = 0.2
_LOCAL = ("127.0.0.1", "localhost", "::1", "0.0.0.0", "::")


@dataclass
class Usage:
    """Filled in when the measurement ends."""

    pid: int
    cpu_seconds: float = 0.0
    # Resident set size, bytes: at the start, at the end and the largest seen.
    rss_before: int = 0
    rss_after: int = 0
    rss_peak: int = 0


def listening_process(target: str) -> int | None:
    """The process that listens on a target's port of this machine; None if there is none that may be looked at."""
    host, _, port = target.rpartition(":")
    if host.strip("[]") not in _LOCAL:
        return None
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == int(port):
            return connection.pid
    return None


@contextmanager
def measured(pid: int | None) -> Iterator[Usage | None]:
    """Measures a process while the block runs; nothing for None.

    Raises:
        StepError: there is no such process.
    """
    if pid is None:
        yield None
        return
    try:
        process = psutil.Process(pid)
        usage = Usage(pid)
        before, usage.rss_before = _used(process)
    except psutil.Error as error:
        raise StepError(f"--server-pid {pid}: {error}.") from None
    usage.rss_peak = usage.rss_before
    stop = threading.Event()

    def sample() -> None:
        while process.is_running() and not stop.wait(_SAMPLE_SECONDS):
            usage.rss_peak = max(usage.rss_peak, _used(process)[1])

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield usage
    finally:
        stop.set()
        thread.join()
        after, usage.rss_after = _used(process)
        usage.rss_peak = max(usage.rss_peak, usage.rss_after)
        # A child that has ended took its processor time with it.
        usage.cpu_seconds = max(after - before, 0.0)


def _used(process: psutil.Process) -> tuple[float, int]:
    """Processor seconds and resident bytes; what has ended by now counts as nothing."""
    cpu, rss = 0.0, 0
    with suppress(psutil.NoSuchProcess):
        for one in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess), one.oneshot():
                times = one.cpu_times()
                cpu += times.user + times.system
                rss += one.memory_info().rss
    return cpu, rss
