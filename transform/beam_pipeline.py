"""A Beam pipeline on the configured runner, whose failures end in one sentence and never in silence."""

import logging
import re
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability.fn_api_runner.worker_handlers import (
    BeamFnControlServicer,
    SubprocessSdkWorkerHandler,
    WorkerHandler,
)
from apache_beam.runners.portability.local_job_service import SubprocessSdkWorker

from transform.checks import DataError
from transform.config import BeamConfig

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LOOKS = 1.0
_TRACEBACK = "Traceback (most recent call last)"
# Beam adds to the message of an exception the step in which a worker met it.
_STEP = re.compile(r"\s*\[while running '(?P<step>[^']*)'\]")


@contextmanager
def beam_pipeline(config: BeamConfig, name: str) -> Iterator[beam.Pipeline]:
    """A pipeline on the configured runner; runs when the block ends, and says how long it took.

    `beam.Create` spreads its elements over the workers by itself: no reshuffle need follow it.

    Args:
        name: what the pipeline does, for the log and for errors.

    Raises:
        DataError: as a worker met it.
        RuntimeError: a worker met another exception, or ended; the message is one sentence, the cause Beam's report.
    """
    start = time.monotonic()
    options = PipelineOptions([f"--runner={config.runner}", *config.options])
    try:
        with beam.Pipeline(options=options) as pipeline:
            yield pipeline
    except DataError:
        raise
    except Exception as error:
        raise RuntimeError(f"{name}: {_told(error)}") from error
    logger.info("%s: done in %.1f s", name, time.monotonic() - start)


def _told(error: Exception) -> str:
    """The exception that a worker met, and the step in which it arose."""
    # Of another process it comes as the text of its traceback, in a RuntimeError.
    report = str(error) if isinstance(error, RuntimeError) else "".join(traceback.format_exception_only(error))
    lines = report.strip().splitlines() if _TRACEBACK in report else [" ".join(report.split())]
    last = next(line for line in reversed(lines) if not line.startswith(" "))
    found = _STEP.search(last)
    return f"in {found['step']!r}: {_STEP.sub('', last)}" if found else last


@WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)
class WatchedWorkerHandler(SubprocessSdkWorkerHandler):
    """A worker process of the local runner whose death ends the pipeline; Beam's own handler waits for it for ever."""

    def start_worker(self) -> None:
        """Starts the process and a thread that waits for its end."""
        self._stopped = threading.Event()
        self.worker = SubprocessSdkWorker(
            self._worker_command_line, self.control_address, self.provision_info, self.worker_id
        )
        self.worker_thread = threading.Thread(name="run_worker", target=self._run)
        self.worker_thread.start()

    def stop_worker(self) -> None:
        """Waits for the process, which ends once it is told that nothing more comes."""
        self._stopped.set()
        # Beam tells only a process that has connected: one that still starts would wait for work for ever.
        self.control_conn.push(BeamFnControlServicer._DONE_MARKER)
        super().stop_worker()

    def _run(self) -> None:
        try:
            self.worker.run()
        except RuntimeError as error:
            message = (
                f"a worker process of Beam ended before its work was done ({error}). A process that the system killed "
                "for memory looks like this: give fewer workers (--direct_num_workers), more transform.buckets or, in "
                "a batch job, a smaller --batch-size, then run the same command again."
            )
            # Requests may come even now: each would wait for an answer of the process that is gone. The runner waits
            # for data until an answer is there: aborting the requests, as Beam offers to, would not end that.
            while not self._stopped.wait(_SECONDS_BETWEEN_LOOKS):
                for request in list(self.control_conn._futures_by_id.values()):
                    if not request.is_done():
                        request.set(beam_fn_api_pb2.InstructionResponse(error=message))
