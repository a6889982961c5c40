"""`tandem` in a process of its own that meets a fault: killed at a named moment, a full disk, a worker that raises."""

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

# Forked from a process that has loaded the libraries, each is there in a moment.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["pipeline.cli", "transform.beam_transform", "tests.transform.faults"])
# Beside other work, loading the libraries can take minutes.
_SECONDS = 1_200
# More than the messages need, less than the files of a small shop.
_ROOM = 2**15


def tandem(log: Path, *arguments: str | Path, fault: Callable[..., None] | None = None, **more: Any) -> int:
    """Runs the command with `fault(**more)` called before it; its messages go to `log`. Returns the exit status."""
    process = start(log, *arguments, fault=fault, **more)
    process.join(_SECONDS)
    if process.is_alive():
        process.kill()
        raise TimeoutError(f"tandem still ran after {_SECONDS} s: {log.read_text()}")
    status = process.exitcode
    assert status is not None
    return status


def start(log: Path, *arguments: str | Path, fault: Callable[..., None] | None = None, **more: Any) -> BaseProcess:
    """As `tandem`, without waiting for the end."""
    process = _PROCESSES.Process(target=_run, args=(log, tuple(map(str, arguments)), fault, more))
    process.start()
    return process


def _run(log: Path, arguments: tuple[str, ...], fault: Callable[..., None] | None, more: dict[str, Any]) -> None:
    from pipeline.cli import main

    with log.open("w") as messages:
        os.dup2(messages.fileno(), 1)
        os.dup2(messages.fileno(), 2)
    if fault is not None:
        fault(**more)
    sys.exit(main(arguments))


def killed_at(event: str, ending: str) -> None:
    """SIGKILL when Python is about to do `event` (its name among audit events) to a path that ends like this."""

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        # Of a rename, the new name.
        if name == event and Path(str(arguments[event == "os.rename"])).match(ending):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def full_disk(path: str) -> None:
    """From the first file on whose path has `path` in it, none may grow beyond 32 KiB: a disk that is almost full."""

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        if name == "open" and path in str(arguments[0]):
            resource.setrlimit(resource.RLIMIT_FSIZE, (_ROOM, _ROOM))

    sys.addaudithook(hook)


def raising(module: str, name: str) -> None:
    """The function `name` that workers call fails, as on a value that nobody thought of."""

    def fails(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a fault put in by a test")

    setattr(sys.modules[module], name, fails)
