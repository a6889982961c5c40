"""What a load showed, as figures: latencies, errors, versions, and what both sides used."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.bench_load import OK, Load
from pipeline.server_process import Usage

# Slices that latency over time is cut into.
_SLICES = 60


@dataclass(frozen=True)
class Latency:
    """Milliseconds."""

    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True)
class Slice:
    """A part of the time: where it begins (seconds), its latencies, and the versions that answered."""

    start: float
    latency_ms: Latency
    versions: list[int]


@dataclass(frozen=True)
class Server:
    """What the server used: cores on the average, milliseconds of a core a request, resident memory in MiB."""

    pid: int
    cores: float
    cpu_ms_per_request: float
    rss_mib: float
    rss_peak_mib: float


@dataclass(frozen=True)
class Result:
    """One load. `rate` is None in closed loop, `latency_ms` where nothing was answered."""

    rate: float | None
    callers: int
    sent: int
    answered: int
    errors: dict[str, int]
    # Answers a second, from the first intended time to the last answer.
    achieved_rate: float
    latency_ms: Latency | None
    # From the intended time to sending, 99th percentile: how late the sender itself was.
    send_delay_p99_ms: float
    versions: dict[int, int]
    over_time: list[Slice]
    client_cores: float
    client_cpu_ms_per_request: float
    server: Server | None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def result(load: Load, rate: float | None, callers: int, usage: Usage | None) -> Result:
    """The figures of a load. Latencies are those of the answers; errors are counted by their code."""
    sent = len(load.outcomes)
    answered = load.outcomes == OK
    seconds = float(load.done.max() - load.intended.min()) if sent else 0.0
    server = None
    if usage is not None and sent:
        server = Server(
            usage.pid,
            usage.cpu_seconds / seconds,
            1e3 * usage.cpu_seconds / sent,
            usage.rss_after / 2**20,
            usage.rss_peak / 2**20,
        )
    return Result(
        rate,
        callers,
        sent,
        int(answered.sum()),
        dict(Counter(load.outcomes[~answered].tolist())),
        float(answered.sum()) / seconds if seconds else 0.0,
        latency(load.latencies[answered]) if answered.any() else None,
        1e3 * float(np.percentile(load.sent - load.intended, 99)) if sent else 0.0,
        dict(sorted(Counter(load.versions[answered].tolist()).items())),
        _over_time(load, answered),
        load.cpu_seconds / seconds if seconds else 0.0,
        1e3 * load.cpu_seconds / sent if sent else 0.0,
        server,
    )


def latency(seconds: np.ndarray) -> Latency:
    """Percentiles [N] → milliseconds."""
    p50, p90, p99 = (1e3 * float(value) for value in np.percentile(seconds, (50, 90, 99)))
    return Latency(p50, p90, p99, 1e3 * float(seconds.max()))


def _over_time(load: Load, answered: np.ndarray) -> list[Slice]:
    if not answered.any():
        return []
    times = load.intended[answered]
    edges = np.linspace(0.0, float(times[-1]) or 1.0, _SLICES + 1)
    places = np.minimum(np.digitize(times, edges) - 1, _SLICES - 1)
    slices = []
    for place in np.unique(places):
        inside = places == place
        versions = np.unique(load.versions[answered][inside]).tolist()
        slices.append(Slice(float(edges[place]), latency(load.latencies[answered][inside]), versions))
    return slices
