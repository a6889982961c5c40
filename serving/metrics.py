"""What the server counts and times, as Prometheus text under TensorFlow Serving's names. Times are microseconds."""

import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

# Distinct sets of label values that one metric keeps. A client chooses names freely; what exceeds is counted under
# this value in each label.
MAX_SERIES = 1_000
OTHER = "other"
# Characters of a label value: a name of a megabyte is counted under OTHER, too.
_LONGEST_VALUE = 1_000


class Counter:
    """A number per set of label values that only grows."""

    kind = "counter"

    def __init__(self, name: str, *labels: str) -> None:
        self.name = name
        self.labels = labels
        self._values: dict[tuple[str, ...], int] = {}
        self._lock = threading.Lock()

    def add(self, *values: str, amount: int = 1) -> None:
        """Adds to the series of these label values."""
        with self._lock:
            key = _key(self._values, values)
            self._values[key] = self._values.get(key, 0) + amount

    def lines(self) -> Iterator[str]:
        """One line per series."""
        with self._lock:
            series = list(self._values.items())
        for values, number in series:
            yield f"{_metric_name(self.name)}{{{_label_text(self.labels, values)}}} {number}"


class Histogram:
    """How often a value fell below each bound, per set of label values."""

    kind = "histogram"

    def __init__(self, name: str, *labels: str, bounds: Sequence[float]) -> None:
        self.name = name
        self.labels = labels
        self._bounds = bounds
        # Counts per bucket, the last without a bound, and the sum of all values.
        self._values: dict[tuple[str, ...], tuple[list[int], list[float]]] = {}
        self._lock = threading.Lock()

    def observe(self, value: float, *values: str) -> None:
        """Counts a value in the series of these label values."""
        bucket = bisect_left(self._bounds, value)
        with self._lock:
            key = _key(self._values, values)
            if key not in self._values:
                self._values[key] = ([0] * (len(self._bounds) + 1), [0.0])
            counts, total = self._values[key]
            counts[bucket] += 1
            total[0] += value

    def lines(self) -> Iterator[str]:
        """Buckets, sum and count of each series; a bucket counts all values up to its bound."""
        with self._lock:
            series = [(values, list(counts), total[0]) for values, (counts, total) in self._values.items()]
        name = _metric_name(self.name)
        for values, counts, total in series:
            labels = _label_text(self.labels, values)
            separator = "," if labels else ""
            below = 0
            for bound, count in zip([*(f"{bound:g}" for bound in self._bounds), "+Inf"], counts, strict=True):
                below += count
                yield f'{name}_bucket{{{labels}{separator}le="{bound}"}} {below}'
            yield f"{name}_sum{{{labels}}} {total:g}"
            yield f"{name}_count{{{labels}}} {below}"


class ServingMetrics:
    """All metrics of one server. Names and buckets are those of TensorFlow Serving 2.16."""

    def __init__(self) -> None:
        latency = exponential_bounds(10, 1.8, 33)
        sizes = exponential_bounds(1, 2, 15)
        serving, batching = "/tensorflow/serving", "/tensorflow/serving/batching_session"
        loading = "/tensorflow/cc/saved_model"
        self.request_count = Counter(f"{serving}/request_count", "model_name", "status")
        self.request_latency = Histogram(
            f"{serving}/request_latency", "model_name", "API", "entrypoint", bounds=latency
        )
        self.runtime_latency = Histogram(f"{serving}/runtime_latency", "model_name", "API", "runtime", bounds=latency)
        self.warmup_latency = Histogram(f"{serving}/model_warmup_latency", "model_path", "status", bounds=latency)
        self.load_attempts = Counter(f"{loading}/load_attempt_count", "model_path", "status")
        self.load_latency = Counter(f"{loading}/load_latency", "model_path")
        self.queuing_latency = Histogram(
            f"{batching}/queuing_latency", "thread_pool_name", bounds=exponential_bounds(100, 1.2, 52)
        )
        self.batches = Counter(f"{batching}/wrapped_run_count")
        # TensorFlow Serving keeps percentiles of these, which its own text leaves out.
        self.input_batch_size = Histogram(f"{batching}/input_batch_size", bounds=sizes)
        self.processed_batch_size = Histogram(f"{batching}/processed_batch_size", bounds=sizes)
        self.padding_size = Histogram(f"{batching}/padding_size", "execution_batch_size", bounds=sizes)

    def text(self) -> str:
        """Everything in Prometheus' text format."""
        metrics = [metric for metric in vars(self).values() if isinstance(metric, Counter | Histogram)]
        lines: list[str] = []
        for metric in sorted(metrics, key=lambda metric: metric.name):
            lines.append(f"# TYPE {_metric_name(metric.name)} {metric.kind}")
            lines.extend(metric.lines())
        return "\n".join(lines) + "\n"


def exponential_bounds(scale: float, growth: float, count: int) -> list[float]:
    """`count` bounds: scale, scale · growth, scale · growth², …"""
    return [scale * growth**power for power in range(count)]


def micros_since(began: float) -> int:
    """Microseconds since a time of `time.perf_counter`."""
    return int((time.perf_counter() - began) * 1e6)


def _key(known: Mapping[tuple[str, ...], object], values: tuple[str, ...]) -> tuple[str, ...]:
    fits = len(known) < MAX_SERIES and all(len(value) <= _LONGEST_VALUE for value in values)
    return values if values in known or fits else (OTHER,) * len(values)


def _metric_name(name: str) -> str:
    return "".join(character if character.isalnum() or character == "_" else ":" for character in name)


def _label_text(names: Sequence[str], values: Sequence[str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
