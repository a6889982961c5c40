"""TensorFlow Serving as an engine: `tensorflow_model_server` started with our files, watched, and stopped with us."""

import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

BINARY = "tensorflow_model_server"
_LIBC = ctypes.CDLL("libc.so.6")
_PR_SET_PDEATHSIG = 1
# Lines of the server's log that are kept, and those of them that its death is told with.
_KEPT_LINES = 500
_LAST_LINES = 15
# Bytes of a log line; a longer one is forwarded in parts.
_LINE_BYTES = 1 << 16
_MISSING_OP = re.compile(r"Op type not registered '([^']+)'")


class EngineError(RuntimeError):
    """The engine could not be started, or has stopped; `exit_status` is what the command ends with."""

    def __init__(self, message: str, exit_status: int = 1) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class ModelServerProcess:
    """A running `tensorflow_model_server`: its log goes to our standard error; leaving the block stops it."""

    def __init__(self, command: Sequence[str], grace: float = 10.0) -> None:
        """Starts the server.

        Args:
            command: the binary and its flags.
            grace: seconds between asking it to stop and killing it.
        """
        self._grace = grace
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            # Ctrl-C in a terminal reaches only us: the server is stopped once, by us.
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        assert self._process.stdout is not None
        self._log = threading.Thread(target=self._forward, args=(self._process.stdout,), daemon=True)
        self._log.start()

    def check_alive(self) -> None:
        """Returns if the server runs.

        Raises:
            EngineError: it has ended; with its exit status and its last log lines.
        """
        status = self._process.poll()
        if status is None:
            return
        self._log.join(timeout=5.0)
        lines = list(self._lines)
        missing = missing_op("\n".join(lines))
        reason = f"\n{explain_missing_op(missing)}" if missing else ""
        last = "".join(f"\n  {line}" for line in lines[-_LAST_LINES:])
        # As a shell tells of a program that a signal ended.
        shown = 128 - status if status < 0 else status
        raise EngineError(f"{BINARY} ended with exit status {shown}; its last lines:{last}{reason}", shown or 1)

    def stop(self) -> None:
        """Asks the server to stop, and kills it if it takes longer than the grace."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(self._grace)
            except subprocess.TimeoutExpired:
                print(f"{BINARY} did not stop in {self._grace:.0f} s: killed", file=sys.stderr)
                self._process.kill()
                self._process.wait()
        self._log.join(timeout=5.0)

    def __enter__(self) -> "ModelServerProcess":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _forward(self, log: IO[str]) -> None:
        with log:
            for line in iter(lambda: log.readline(_LINE_BYTES), ""):
                self._lines.append(line.rstrip("\n"))
                sys.stderr.write(line)


def find_binary(given: Path | None) -> Path:
    """The server's executable: the one given, else the one on PATH.

    Raises:
        EngineError: there is none; says how to get it.
    """
    found = shutil.which(str(given) if given is not None else BINARY)
    if found is None:
        where = f"{given} is not an executable file" if given is not None else f"{BINARY} is not on PATH"
        raise EngineError(
            f"{where}. Install the apt package tensorflow-model-server, or copy /usr/bin/{BINARY} out of the image "
            f"tensorflow/serving:2.16.1, and name it with --tensorflow-model-server PATH; --engine embedded needs none."
        )
    return Path(found).absolute()


def take_port(port: int) -> int:
    """The port if it is free, and for 0 a free one: TensorFlow Serving itself takes 0 for "none".

    Raises:
        EngineError: the port is in use or not allowed. Said here because TensorFlow Serving loads all models before
            it listens.
    """
    with socket.socket() as probe:
        # As gRPC does: connections of a server that has just stopped are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError as error:
            raise EngineError(
                f"Cannot listen on port {port}: {os.strerror(error.errno or 0)}. "
                f"Stop what uses it, or choose another port."
            ) from None
        number: int = probe.getsockname()[1]
        return number


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets while the block runs. Only for the main thread."""
    stopping = threading.Event()
    before = {number: signal.signal(number, lambda *_: stopping.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def missing_op(text: str) -> str | None:
    """The op that TensorFlow says it does not know, if it says so."""
    found = _MISSING_OP.search(text)
    return found.group(1) if found else None


def explain_missing_op(op: str) -> str:
    """What an unknown op means and what to do, in two sentences."""
    return (
        f"A model needs the op {op}, which this {BINARY} does not hold: stock builds have none of ScaNN's ops. "
        f"Export the portable form (`tandem export … --index portable`, then `tandem publish`), "
        f"or serve this one with --engine embedded."
    )


def _die_with_parent() -> None:
    """Runs in the child: a command that is killed outright leaves no server behind that holds its ports."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
