"""Joins requests of one graph into batches, by TensorFlow Serving's BatchingParameters."""

import threading
import time
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np

from protos.server_config_pb2 import BatchingParameters
from serving.errors import RequestError, ServingError, invalid_argument
from serving.metrics import ServingMetrics
from serving.options import CORES
from serving.servable import Servable, Signature


@dataclass(frozen=True)
class BatchingRules:
    """BatchingParameters with TensorFlow Serving's defaults filled in."""

    # Rows of the largest request, and of the largest batch that is run.
    max_batch_size: int
    max_execution_batch_size: int
    # Whether a request may be split over batches.
    splits: bool
    # Seconds that a batch waits for more while a thread is free.
    timeout: float
    # Batches in a queue, the one that still takes requests included.
    max_enqueued_batches: int
    threads: int
    thread_pool_name: str
    # Sizes that a batch is padded up to; none = any size is run.
    allowed_sizes: tuple[int, ...]
    pad_variable_length_inputs: bool

    def padded_size(self, rows: int) -> int:
        """The rows that a batch of `rows` is run with."""
        position = bisect_left(self.allowed_sizes, rows)
        return self.allowed_sizes[position] if position < len(self.allowed_sizes) else rows


def batching_rules(parameters: BatchingParameters) -> BatchingRules:
    """Checks the parameters and fills in what they leave out.

    Raises:
        ServingError: names the field, the rule and the value received.
    """
    largest = _at_least(parameters, "max_batch_size", 1, default=1_000)
    splits = parameters.enable_large_batch_splitting.value
    execution = _at_least(parameters, "max_execution_batch_size", 1, default=largest) if splits else largest
    if execution > largest:
        raise ServingError(
            f"max_execution_batch_size must be at most max_batch_size ({largest}), received {execution}."
        )
    sizes = tuple(parameters.allowed_batch_sizes)
    if list(sizes) != sorted(set(sizes)) or min(sizes, default=1) < 1:
        raise ServingError(f"allowed_batch_sizes entries must be monotonically increasing; received {list(sizes)}.")
    if sizes and sizes[-1] != execution:
        rule = "be equal to max_execution_batch_size" if splits else "match max_batch_size"
        raise ServingError(
            f"Last entry in allowed_batch_sizes must {rule}; last entry was {sizes[-1]}; expected {execution}."
        )
    return BatchingRules(
        max_batch_size=largest,
        max_execution_batch_size=execution,
        splits=splits,
        timeout=_at_least(parameters, "batch_timeout_micros", 0, default=0) / 1e6,
        max_enqueued_batches=_at_least(parameters, "max_enqueued_batches", 1, default=10),
        threads=_at_least(parameters, "num_batch_threads", 1, default=CORES),
        thread_pool_name=parameters.thread_pool_name.value or "batch_threads",
        allowed_sizes=sizes,
        pad_variable_length_inputs=parameters.pad_variable_length_inputs,
    )


class Task:
    """A request, or a part of it, on its way through a batch."""

    __slots__ = ("arrays", "done", "error", "queued_at", "results", "rows")

    def __init__(self, arrays: list[np.ndarray], rows: int) -> None:
        self.arrays = arrays
        self.rows = rows
        self.queued_at = time.perf_counter()
        self.results: dict[str, np.ndarray] = {}
        self.error: RequestError | None = None
        # A bare lock, held until the batch is done, costs a tenth of an Event.
        self.done = threading.Lock()
        self.done.acquire()

    def wait(self) -> dict[str, np.ndarray]:
        """The outputs, once there.

        Raises:
            RequestError: the batch failed.
        """
        with self.done:
            if self.error is not None:
                raise self.error
            return self.results


@dataclass
class _Batch:
    tasks: list[Task] = field(default_factory=list)
    rows: int = 0
    # When its first task came, on the clock of `time.perf_counter`.
    opened_at: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True)
class Graph:
    """What a batch runs: one signature of one version, with one set of outputs."""

    servable: Servable
    signature: Signature
    outputs: tuple[str, ...]


class RequestBatcher:
    """Queues per graph, and threads that all graphs share.

    While the threads are busy the next batch fills, so that without a timeout, too, batches grow with the load.
    """

    def __init__(self, parameters: BatchingParameters, metrics: ServingMetrics) -> None:
        """Runs nothing before `start`.

        Raises:
            ServingError: a parameter breaks a rule.
        """
        self._rules = batching_rules(parameters)
        self._metrics = metrics
        # Only queues that hold something, in the order in which they get their turn. What may be joined shares a key.
        self._queues: OrderedDict[tuple[Graph, Hashable], deque[_Batch]] = OrderedDict()
        self._changed = threading.Condition(threading.Lock())
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{self._rules.thread_pool_name}-{number}", daemon=True)
            for number in range(self._rules.threads)
        ]

    def start(self) -> None:
        """Begins to run batches."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Runs what is queued, then ends the threads. No request may come any more."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def run(
        self, servable: Servable, signature: Signature, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Does what `Servable.run` does, in company.

        Raises:
            RequestError: INVALID_ARGUMENT if inputs are missing, have no or unequal numbers of rows, or more than a
                batch may have; UNAVAILABLE if too many batches wait; or what the batch failed of.
        """
        arrays, rows = _rows(signature, inputs)
        if rows == 0:
            # Nothing to join, and nothing to pad with.
            return servable.run(signature, inputs, outputs)
        self._metrics.input_batch_size.observe(rows)
        graph = Graph(servable, signature, tuple(outputs))
        tasks = self._enqueue((graph, self._joinable(arrays)), arrays, rows)
        parts = [task.wait() for task in tasks]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _joinable(self, arrays: Sequence[np.ndarray]) -> Hashable:
        """Equal for requests whose inputs fit together."""
        if self._rules.pad_variable_length_inputs:
            # A tensor without elements has no first one to pad with.
            return tuple(array.ndim if array.size else array.shape[1:] for array in arrays)
        return tuple(array.shape[1:] for array in arrays)

    def _enqueue(self, key: tuple[Graph, Hashable], arrays: list[np.ndarray], rows: int) -> list[Task]:
        limit = self._rules.max_execution_batch_size
        if rows > self._rules.max_batch_size:
            raise invalid_argument(
                f"Task size {rows} is larger than maximum input batch size {self._rules.max_batch_size}"
            )
        with self._changed:
            queue = self._queues.get(key)
            room = limit - queue[-1].rows if queue else 0
            self._check_capacity(rows, room, len(queue) if queue else 0)
            if queue is None:
                queue = self._queues[key] = deque()
            tasks = []
            for part, size in _split(arrays, rows, room, limit) if self._rules.splits else [(arrays, rows)]:
                if not queue or queue[-1].rows + size > limit:
                    queue.append(_Batch())
                task = Task(part, size)
                queue[-1].tasks.append(task)
                queue[-1].rows += size
                tasks.append(task)
            self._changed.notify()
        return tasks

    def _check_capacity(self, rows: int, room: int, waiting: int) -> None:
        rules = self._rules
        if rules.splits:
            capacity = (rules.max_enqueued_batches - waiting) * rules.max_execution_batch_size + room
            full = rows > capacity
            detail = (
                f"task size is {rows} but scheduling capacity is only {capacity} (num_enqueued_batches={waiting}, "
                f"max_enqueued_batches={rules.max_enqueued_batches}, "
                f"max_execution_batch_size={rules.max_execution_batch_size})"
            )
        else:
            full = rows > room and waiting >= rules.max_enqueued_batches
            detail = f"currently {waiting} batches enqueued and max_enqueued_batches is {rules.max_enqueued_batches}"
        if full:
            raise RequestError(
                grpc.StatusCode.UNAVAILABLE,
                f"The batch scheduling queue to which this task was submitted is full; {detail}",
            )

    def _work(self) -> None:
        while True:
            with self._changed:
                while (due := self._next()) is None:
                    if self._stopping:
                        return
                    self._changed.wait(self._seconds_to_wait())
            graph, batch = due
            self._run_batch(graph, batch.tasks, batch.rows)
            # An idle thread must not hold the version that it ran last.
            del due, graph, batch

    def _next(self) -> tuple[Graph, _Batch] | None:
        """Takes the batch whose turn it is, if one is full or has waited long enough."""
        now = time.perf_counter()
        for key, queue in self._queues.items():
            full = len(queue) > 1 or queue[0].rows >= self._rules.max_execution_batch_size
            if full or self._stopping or now >= queue[0].opened_at + self._rules.timeout:
                batch = queue.popleft()
                if queue:
                    self._queues.move_to_end(key)
                else:
                    del self._queues[key]
                return key[0], batch
        return None

    def _seconds_to_wait(self) -> float | None:
        if not self._queues:
            return None
        first = min(queue[0].opened_at for queue in self._queues.values())
        return max(first + self._rules.timeout - time.perf_counter(), 0.0)

    def _run_batch(self, graph: Graph, tasks: list[Task], rows: int) -> None:
        """Runs a batch and hands out its rows; whatever happens, every task is answered."""
        began = time.perf_counter()
        for task in tasks:
            self._metrics.queuing_latency.observe((began - task.queued_at) * 1e6, self._rules.thread_pool_name)
        try:
            self._answer(graph, tasks, rows)
        except RequestError as error:
            _fail(tasks, error.code, error.message)
        except Exception as error:
            # The thread belongs to all models: it must outlive what one batch brings about.
            _fail(tasks, grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")
        finally:
            for task in tasks:
                task.done.release()

    def _answer(self, graph: Graph, tasks: list[Task], rows: int) -> None:
        size = self._rules.padded_size(rows)
        self._metrics.batches.add()
        self._metrics.processed_batch_size.observe(size)
        self._metrics.padding_size.observe(size - rows, str(size))
        columns = zip(*(task.arrays for task in tasks), strict=True)
        merged = [_merge(list(column), size - rows) for column in columns]
        inputs = dict(zip(graph.signature.inputs, merged, strict=True))
        results = graph.servable.run(graph.signature, inputs, graph.outputs)
        for values in results.values():
            if np.ndim(values) == 0:
                raise RequestError(grpc.StatusCode.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
            if len(values) != size:
                raise RequestError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
                    "input tensors",
                )
        start = 0
        for task in tasks:
            end = start + task.rows
            task.results = {name: values[start:end] for name, values in results.items()}
            start = end


def _rows(signature: Signature, inputs: Mapping[str, np.ndarray]) -> tuple[list[np.ndarray], int]:
    """The inputs in the order of the signature, defaults of one row repeated, and the number of rows.

    Raises:
        RequestError: INVALID_ARGUMENT if an input is missing, or the numbers of rows aren't one.
    """
    arrays = signature.complete(inputs)
    if not arrays:
        raise invalid_argument("Batching Run() must have at least one input tensor")
    if any(array.ndim == 0 for array in arrays):
        raise invalid_argument("Batching Run() input tensors must have at least one dimension")
    rows = len(next(iter(inputs.values()), arrays[0]))
    for position, alias in enumerate(signature.inputs):
        if alias not in inputs and len(arrays[position]) == 1 != rows:
            arrays[position] = np.repeat(arrays[position], rows, axis=0)
    if any(len(array) != rows for array in arrays):
        raise invalid_argument("Batching Run() input tensors must have equal 0th-dimension size")
    return arrays, rows


def _split(arrays: list[np.ndarray], rows: int, room: int, limit: int) -> list[tuple[list[np.ndarray], int]]:
    """Parts of a request and their rows: what the open batch has room for, then whole batches and a rest."""
    ends = [room] if 0 < room < rows else []
    while (ends[-1] if ends else 0) < rows:
        ends.append(min((ends[-1] if ends else 0) + limit, rows))
    starts = [0, *ends[:-1]]
    return [([array[start:end] for array in arrays], end - start) for start, end in zip(starts, ends, strict=True)]


def _merge(parts: list[np.ndarray], padding: int) -> np.ndarray:
    """One input of all tasks below each other, and the last one's first row again for each row of padding."""
    shape = tuple(max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True))
    parts = [_widened(part, shape) for part in parts]
    if padding:
        parts.append(np.repeat(parts[-1][:1], padding, axis=0))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _widened(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The rows of an array in a larger shape, filled up with its first element as TensorFlow Serving does."""
    if array.shape[1:] == shape:
        return array
    wide = np.full((len(array), *shape), array.flat[0], dtype=array.dtype)
    wide[tuple(slice(size) for size in array.shape)] = array
    return wide


def _fail(tasks: Sequence[Task], code: grpc.StatusCode, message: str) -> None:
    for task in tasks:
        # Each its own: an exception that several threads raise would collect all their tracebacks.
        task.error = RequestError(code, message)


def _at_least(parameters: BatchingParameters, name: str, minimum: int, default: int) -> int:
    value: int = getattr(parameters, name).value if parameters.HasField(name) else default
    if value < minimum:
        raise ServingError(f"{name} must be at least {minimum}, received {value}.")
    return value
