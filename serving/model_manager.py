"""Which versions are loaded: follows the file system, loads the new before it unloads the old, lets requests finish."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

import grpc
import tensorflow as tf

from serving.errors import RequestError, ServingError, status_code
from serving.model_config import ModelConfig, version_directories
from serving.servable import Servable

_LOG = logging.getLogger(__name__)
Loader = Callable[[Path], Servable]


class State(IntEnum):
    """Life of a version, with the numbers of ModelVersionStatus."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass
class Version:
    """One version of a model and how far it has come. Guarded by the model's lock."""

    number: int
    directory: Path
    state: State = State.START
    # Whether the policy still wants it.
    aspired: bool = True
    # Why it isn't loaded: the last attempt's failure.
    error: RequestError | None = None
    attempts: int = 0
    retry_at: float = 0.0
    servable: Servable | None = None
    requests: int = 0


@dataclass(frozen=True)
class Timing:
    """How often things are tried; the defaults are TensorFlow Serving's."""

    # Seconds between two looks at the file system.
    poll_seconds: float = 1.0
    # Attempts after the first before a version that fails to load is given up, and the seconds between them.
    load_retries: int = 5
    retry_seconds: float = 60.0


@dataclass
class ServedModel:
    """The versions of one model. One thread looks at the disk, loads and unloads; requests only count in and out."""

    config: ModelConfig
    load: Loader
    timing: Timing
    _versions: dict[int, Version] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    # The last complaint about the base path, so that it is logged once and not every second.
    _complaint: str = ""

    def start(self) -> None:
        """Begins to follow the base path."""
        self._thread = threading.Thread(target=self._follow, name=f"model-{self.config.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Unloads all versions once their requests are answered."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        for version in list(self._versions.values()):
            if version.state == State.AVAILABLE:
                self._unload(version)

    @contextmanager
    def use(self, number: int | None) -> Iterator[tuple[Servable, int]]:
        """A loaded version, kept loaded for as long as the block runs: the one asked for, or the newest.

        Raises:
            RequestError: NOT_FOUND if it isn't loaded.
        """
        with self._changed:
            version = self._loaded(number)
            version.requests += 1
            servable = version.servable
        assert servable is not None
        try:
            yield servable, version.number
        finally:
            with self._changed:
                version.requests -= 1
                if version.requests == 0:
                    self._changed.notify_all()

    def versions(self) -> list[Version]:
        """All versions ever seen, newest first."""
        with self._changed:
            return [self._versions[number] for number in sorted(self._versions, reverse=True)]

    def wait_until_available(self, deadline: float) -> None:
        """Returns once a version is loaded.

        Args:
            deadline: on the clock of `time.monotonic`, seconds.

        Raises:
            ServingError: the deadline passed, or every version there is failed to load.
        """
        with self._changed:
            while not any(version.state == State.AVAILABLE for version in self._versions.values()):
                failed = [v for v in self._versions.values() if v.aspired and v.error is not None]
                if failed and len(failed) == sum(version.aspired for version in self._versions.values()):
                    reasons = "; ".join(f"version {v.number}: {v.error}" for v in failed)
                    raise ServingError(f"Model {self.config.name} cannot be loaded. {reasons}")
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise ServingError(
                        f"Model {self.config.name}: no version became available in time. "
                        f"{self._complaint or f'Still loading from {self.config.base_path}.'}"
                    )
                self._changed.wait(remaining)

    def _loaded(self, number: int | None) -> Version:
        ready = [version for version in self._versions.values() if version.state == State.AVAILABLE]
        if number is not None:
            ready = [version for version in ready if version.number == number]
        if not ready:
            asked = f"Latest({self.config.name})" if number is None else f"Specific({self.config.name}, {number})"
            raise RequestError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {asked}")
        return max(ready, key=lambda version: version.number)

    def _follow(self) -> None:
        while not self._stopping.is_set():
            self._look()
            while not self._stopping.is_set() and self._act():
                pass
            self._stopping.wait(self.timing.poll_seconds)

    def _look(self) -> None:
        """Compares the disk with what is loaded and marks what the policy wants."""
        try:
            present = version_directories(self.config.base_path)
        except OSError as error:
            # A base path that is out of reach for a while must not unload what is being served.
            self._complain(f"Could not find base path {self.config.base_path} for model {self.config.name}: {error}")
            return
        aspired = self.config.policy.choose(present.keys())
        if aspired:
            self._complaint = ""
        else:
            self._complain(
                f"No versions of model {self.config.name} found under base path {self.config.base_path}; waiting for "
                f"a folder named with an integer, such as {self.config.base_path / '1'}."
            )
        with self._changed:
            for version in self._versions.values():
                version.aspired = version.aspired and version.number in aspired
                if not version.aspired and version.state in (State.START, State.LOADING):
                    version.state = State.END
            for number in sorted(aspired):
                known = self._versions.get(number)
                if known is None or (known.state == State.END and not known.aspired):
                    self._versions[number] = Version(number, present[number])
                else:
                    known.aspired = True

    def _act(self) -> bool:
        """Does the next thing there is to do, if any: availability first, so the old goes when a wanted one is up."""
        with self._changed:
            versions = sorted(self._versions.values(), key=lambda version: version.number)
        ready = [version for version in versions if version.state == State.AVAILABLE]
        wanted = [version for version in versions if version.aspired]
        unwanted = [version for version in ready if not version.aspired]
        if unwanted and (not wanted or any(version.aspired for version in ready)):
            self._unload(unwanted[0])
            return True
        now = time.monotonic()
        due = [v for v in wanted if v.state in (State.START, State.LOADING) and v.retry_at <= now]
        if due:
            self._load(due[-1])
            return True
        return False

    def _load(self, version: Version) -> None:
        name = f"model {self.config.name} version {version.number}"
        self._set(version, State.LOADING)
        _LOG.info("%s: loading from %s", name, version.directory)
        began = time.monotonic()
        try:
            servable = self.load(version.directory)
        except Exception as error:
            # Files from outside can make TensorFlow raise anything; it must stay this version's trouble alone.
            self._failed(version, name, error)
            return
        with self._changed:
            version.servable, version.error = servable, None
        self._set(version, State.AVAILABLE)
        _LOG.info("%s: available after %.1f s", name, time.monotonic() - began)

    def _failed(self, version: Version, name: str, error: Exception) -> None:
        reason = _reason(error)
        known = isinstance(error, RequestError | ServingError | tf.errors.OpError)
        _LOG.error("%s: cannot be loaded: %s", name, reason, exc_info=None if known else error)
        with self._changed:
            version.error = reason
            version.attempts += 1
            version.retry_at = time.monotonic() + self.timing.retry_seconds
        self._set(version, State.END if version.attempts > self.timing.load_retries else State.LOADING)

    def _unload(self, version: Version) -> None:
        self._set(version, State.UNLOADING)
        with self._changed:
            self._changed.wait_for(lambda: version.requests == 0)
            servable, version.servable = version.servable, None
        assert servable is not None
        servable.close()
        self._set(version, State.END)
        _LOG.info("model %s version %d: unloaded", self.config.name, version.number)

    def _set(self, version: Version, state: State) -> None:
        with self._changed:
            version.state = state
            self._changed.notify_all()

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint:
            _LOG.warning("%s", complaint)
        self._complaint = complaint


class ModelManager:
    """All models of a server."""

    def __init__(self, models: Sequence[ModelConfig], load: Loader, timing: Timing) -> None:
        self._models = {model.name: ServedModel(model, load, timing) for model in models}

    def start(self) -> None:
        """Begins to load; models load beside each other."""
        for model in self._models.values():
            model.start()

    def stop(self) -> None:
        """Unloads everything once the requests under way are answered."""
        for model in self._models.values():
            model.stop()

    def wait_until_available(self, timeout: float) -> None:
        """Returns once every model has a loaded version.

        Raises:
            ServingError: a model can't be loaded, or `timeout` seconds passed.
        """
        deadline = time.monotonic() + timeout
        for model in self._models.values():
            model.wait_until_available(deadline)

    @contextmanager
    def use(self, name: str, number: int | None) -> Iterator[tuple[Servable, int]]:
        """The version of a model that answers, and its number; it stays loaded while the block runs.

        Raises:
            RequestError: NOT_FOUND if the model or the version isn't loaded.
        """
        model = self._models.get(name)
        if model is None:
            asked = f"Latest({name})" if number is None else f"Specific({name}, {number})"
            raise RequestError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {asked}")
        with model.use(number) as used:
            yield used

    def status(self, name: str, number: int | None) -> list[Version]:
        """The versions of a model, newest first, or only the one asked for.

        Raises:
            RequestError: NOT_FOUND if there is none.
        """
        versions = self._models[name].versions() if name in self._models else []
        if number is not None:
            versions = [version for version in versions if version.number == number]
            if not versions:
                raise RequestError(grpc.StatusCode.NOT_FOUND, f"Could not find version {number} of model {name}")
        if not versions:
            raise RequestError(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {name}")
        return versions


def _reason(error: Exception) -> RequestError:
    """The failure of a load, as the status of its version."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, ServingError):
        return RequestError(grpc.StatusCode.NOT_FOUND, str(error))
    if isinstance(error, tf.errors.OpError):
        return RequestError(status_code(error.error_code), error.message)
    return RequestError(grpc.StatusCode.UNKNOWN, f"{type(error).__name__}: {error}")
