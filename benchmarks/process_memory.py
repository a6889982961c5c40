"""Runs a command and measures the memory of all its processes together."""

import json
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil

_EVERY_SECONDS = 0.1


@dataclass(frozen=True)
class Measured:
    """What a command that ran to its end printed last, and took."""

    printed: dict[str, Any]  # the JSON of its last line
    peak_bytes: int  # most resident memory of all its processes at one time; shared pages count in each


def measured(command: Sequence[str]) -> Measured:
    """Runs a command whose last line is JSON.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        ended, peak = threading.Event(), [0]
        watch = threading.Thread(target=_watch, args=(process.pid, ended, peak))
        watch.start()
        try:
            output, _ = process.communicate()
        finally:
            ended.set()
            watch.join()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Measured(json.loads(output.splitlines()[-1]), peak[0])


def _watch(pid: int, ended: threading.Event, peak: list[int]) -> None:
    while not ended.wait(_EVERY_SECONDS):
        peak[0] = max(peak[0], _resident_bytes(pid))


def _resident_bytes(pid: int) -> int:
    total = 0
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
