"""Which versions are loaded: follows disk and configuration, loads new before it unloads old, lets requests finish."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import grpc
import tensorflow as tf

from serving.errors import RequestError, ServingError, status_code
from serving.model_config import ModelConfig, version_directories
from serving.servable import Servable

_LOG = logging.getLogger(__name__)
Loader = Callable[[Path], Servable]
# Which version a request asks for: a number, a label, or None for the newest.
VersionChoice = int | str | None
# The longest that a lock can be waited for, seconds.
_FOREVER = threading.TIMEOUT_MAX


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


class ServedModel:
    """The versions of one model. One thread looks at the disk, loads and unloads; requests only count in and out."""

    def __init__(self, config: ModelConfig, load: Loader, timing: Timing) -> None:
        self.config = config
        self._load_servable = load
        self._timing = timing
        # By folder: a model that moves to another base path has other versions, whatever their numbers.
        self._versions: dict[Path, Version] = {}
        # Guards the versions and the configuration.
        self._changed = threading.Condition()
        self._wake = threading.Event()
        self._leaving = False
        # Whether the disk was compared with the present configuration.
        self._looked = False
        self._thread: threading.Thread | None = None
        # The last complaint about the base path, so that it is logged once and not every second.
        self._complaint = ""

    def start(self) -> None:
        """Begins to follow the base path."""
        self._thread = threading.Thread(target=self._follow, name=f"model-{self.config.name}", daemon=True)
        self._thread.start()

    def configure(self, config: ModelConfig) -> None:
        """Serves from another base path, or by another policy, from now on."""
        with self._changed:
            if config == self.config:
                return
            self.config = config
            self._looked = False
        self._wake.set()

    def leave(self) -> None:
        """Begins to unload all versions, each once its requests are answered."""
        self._leaving = True
        self._wake.set()

    @property
    def leaving(self) -> bool:
        """Whether the model is no longer served."""
        return self._leaving

    def join(self) -> None:
        """Returns once a model that leaves has left."""
        if self._thread is not None:
            self._thread.join()

    def acquire(self, number: int | None) -> Version:
        """A loaded version, the one asked for or the newest, kept loaded until its `release`.

        Raises:
            RequestError: NOT_FOUND if it isn't loaded.
        """
        with self._changed:
            version = self._loaded(number)
            version.requests += 1
            return version

    def release(self, version: Version) -> None:
        """Ends a use that `acquire` began."""
        with self._changed:
            version.requests -= 1
            if version.requests == 0:
                self._changed.notify_all()

    def versions(self) -> list[Version]:
        """All versions ever seen, newest first."""
        with self._changed:
            # Of two folders with one number, the one that is served now.
            known = {version.number: version for version in sorted(self._versions.values(), key=lambda v: v.aspired)}
            return [known[number] for number in sorted(known, reverse=True)]

    def wait_until_available(self, deadline: float, wait_for_files: bool) -> None:
        """Returns once a version is loaded.

        Args:
            deadline: on the clock of `time.monotonic`, seconds.
            wait_for_files: whether to wait for a version to be written, where there is none.

        Raises:
            ServingError: the deadline passed, every version there is failed to load, there is none, or the model left.
        """
        name = self.config.name
        with self._changed:
            while not any(version.state == State.AVAILABLE for version in self._versions.values()):
                aspired = [version for version in self._versions.values() if version.aspired]
                if self._leaving:
                    raise ServingError(f"Model {name} is no longer served.")
                if aspired and all(version.error is not None for version in aspired):
                    reasons = "; ".join(f"version {version.number}: {version.error}" for version in aspired)
                    raise ServingError(f"Model {name} cannot be loaded. {reasons}")
                if self._looked and self._complaint and not wait_for_files:
                    raise ServingError(self._complaint)
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise ServingError(
                        f"Model {name}: no version became available in time. "
                        f"{self._complaint or f'Still loading from {self.config.base_path}.'}"
                    )
                self._changed.wait(min(remaining, _FOREVER))

    def _loaded(self, number: int | None) -> Version:
        ready = [version for version in self._versions.values() if version.state == State.AVAILABLE]
        if number is not None:
            ready = [version for version in ready if version.number == number]
        if not ready:
            raise _not_loaded(self.config.name, number)
        return max(ready, key=lambda version: (version.number, version.aspired))

    def _follow(self) -> None:
        while not self._leaving:
            self._wake.clear()
            if self._timing.poll_seconds > 0 or not self._looked:
                self._look()
            while not self._leaving and self._act():
                pass
            self._wake.wait(self._seconds_to_wait())
        with self._changed:
            versions = list(self._versions.values())
            for version in versions:
                version.aspired = False
                if version.state in (State.START, State.LOADING):
                    version.state = State.END
            self._changed.notify_all()
        for version in versions:
            if version.state == State.AVAILABLE:
                self._unload(version)

    def _seconds_to_wait(self) -> float | None:
        """Until there may be something to do; None if only somebody else can bring it about."""
        waits = [self._timing.poll_seconds] if self._timing.poll_seconds > 0 else []
        with self._changed:
            waits += [
                max(version.retry_at - time.monotonic(), 0.0)
                for version in self._versions.values()
                if version.aspired and version.state == State.LOADING
            ]
        return min(waits, default=None)

    def _look(self) -> None:
        """Compares the disk with what is loaded and marks what the policy wants."""
        config = self.config
        try:
            present = version_directories(config.base_path)
        except OSError as error:
            # A base path that is out of reach for a while must not unload what is being served.
            self._looked_in_vain(
                config, f"Could not find base path {config.base_path} for model {config.name}: {error}"
            )
            return
        aspired = {present[number] for number in config.policy.choose(present.keys())}
        if not aspired:
            self._looked_in_vain(
                config,
                f"No versions of model {config.name} found under base path {config.base_path}; waiting for a folder "
                f"named with an integer, such as {config.base_path / '1'}.",
            )
        with self._changed:
            for version in self._versions.values():
                version.aspired = version.aspired and version.directory in aspired
                if not version.aspired and version.state in (State.START, State.LOADING):
                    version.state = State.END
            for directory in sorted(aspired):
                known = self._versions.get(directory)
                if known is None or (known.state == State.END and not known.aspired):
                    self._versions[directory] = Version(int(directory.name), directory)
                else:
                    known.aspired = True
            if aspired:
                self._complaint = ""
                self._looked = config is self.config

    def _looked_in_vain(self, config: ModelConfig, complaint: str) -> None:
        with self._changed:
            if complaint != self._complaint:
                _LOG.warning("%s", complaint)
            self._complaint = complaint
            self._looked = config is self.config
            self._changed.notify_all()

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
            servable = self._load_servable(version.directory)
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
            version.retry_at = time.monotonic() + self._timing.retry_seconds
        self._set(version, State.END if version.attempts > self._timing.load_retries else State.LOADING)

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


class ModelManager:
    """All models of a server, as the present configuration names them."""

    def __init__(self, load: Loader, timing: Timing, labels_for_unavailable: bool = False) -> None:
        """Serves nothing before `configure`.

        Args:
            load: loads the version in a folder.
            timing: how often things are tried.
            labels_for_unavailable: whether a new label may be given to a version that isn't loaded.
        """
        self._load = load
        self._timing = timing
        self._labels_for_unavailable = labels_for_unavailable
        # Models that left stay, for their status.
        self._models: dict[str, ServedModel] = {}
        self._labels: Mapping[str, Mapping[str, int]] = {}
        self._configuring = threading.Lock()

    def configure(self, models: Sequence[ModelConfig]) -> list[ServedModel]:
        """Puts a configuration in the place of the last; loading and unloading begin, but aren't waited for.

        Returns:
            The models that are new.

        Raises:
            RequestError: FAILED_PRECONDITION if a label is given to a version that isn't loaded; nothing has changed.
        """
        with self._configuring:
            for model in models:
                self._check_labels(model)
            # Labels move before a version that loses its label can go.
            self._labels = {model.name: model.labels for model in models}
            for name in self._models.keys() - self._labels.keys():
                self._models[name].leave()
            return [self._models[model.name] for model in models if self._serve(model)]

    def stop(self) -> None:
        """Unloads everything once the requests under way are answered."""
        self.configure([])
        for model in self._models.values():
            model.join()

    def wait_until_available(self, timeout: float) -> None:
        """Returns once every model has a loaded version.

        Raises:
            ServingError: a model can't be loaded, or `timeout` seconds passed.
        """
        deadline = time.monotonic() + timeout
        for model in list(self._models.values()):
            if not model.leaving:
                model.wait_until_available(deadline, wait_for_files=True)

    @contextmanager
    def use(self, name: str, choice: VersionChoice) -> Iterator[tuple[Servable, int]]:
        """The version of a model that answers, and its number; it stays loaded while the block runs.

        Raises:
            RequestError: NOT_FOUND if the model or the version isn't loaded, INVALID_ARGUMENT for an unknown label.
        """
        model, version = self._acquire(name, choice)
        try:
            assert version.servable is not None
            yield version.servable, version.number
        finally:
            model.release(version)

    def status(self, name: str, choice: VersionChoice) -> list[Version]:
        """The versions of a model, newest first, or only the one asked for.

        Raises:
            RequestError: NOT_FOUND if there is none, INVALID_ARGUMENT for an unknown label.
        """
        number = self._number(name, choice)
        versions = self._models[name].versions() if name in self._models else []
        if number is not None:
            versions = [version for version in versions if version.number == number]
            if not versions:
                raise RequestError(grpc.StatusCode.NOT_FOUND, f"Could not find version {number} of model {name}")
        if not versions:
            raise RequestError(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {name}")
        return versions

    def _acquire(self, name: str, choice: VersionChoice) -> tuple[ServedModel, Version]:
        while True:
            number = self._number(name, choice)
            model = self._models.get(name)
            if model is None:
                raise _not_loaded(name, number)
            try:
                return model, model.acquire(number)
            except RequestError:
                # Between the two looks the label may have moved and its old version gone.
                if number == self._number(name, choice):
                    raise

    def _number(self, name: str, choice: VersionChoice) -> int | None:
        if not isinstance(choice, str):
            return choice
        try:
            return self._labels[name][choice]
        except KeyError:
            raise RequestError(
                grpc.StatusCode.INVALID_ARGUMENT, f"Unrecognized servable version label: {choice}"
            ) from None

    def _serve(self, model: ModelConfig) -> bool:
        """Begins to serve a model, or changes how it is served; whether it is new."""
        served = self._models.get(model.name)
        if served is not None and not served.leaving:
            served.configure(model)
            return False
        if served is not None:
            # Two versions of one folder in memory would be one too many.
            served.join()
        self._models[model.name] = ServedModel(model, self._load, self._timing)
        self._models[model.name].start()
        return True

    def _check_labels(self, model: ModelConfig) -> None:
        served = self._models.get(model.name)
        loaded = {v.number for v in served.versions() if v.state == State.AVAILABLE} if served is not None else set()
        in_use = self._labels.get(model.name, {})
        for label, number in model.labels.items():
            free = self._labels_for_unavailable and in_use.get(label, number) == number
            if number not in loaded and not free:
                raise RequestError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"Request to assign label to version {number} of model {model.name}, which is not currently "
                    f'available for inference (label "{label}")',
                )


def _not_loaded(name: str, number: int | None) -> RequestError:
    asked = f"Latest({name})" if number is None else f"Specific({name}, {number})"
    return RequestError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {asked}")


def _reason(error: Exception) -> RequestError:
    """The failure of a load, as the status of its version.

    Always a new exception: the traceback of the one that was raised holds what had been loaded.
    """
    if isinstance(error, RequestError):
        return RequestError(error.code, error.message)
    if isinstance(error, ServingError):
        return RequestError(grpc.StatusCode.NOT_FOUND, str(error))
    if isinstance(error, tf.errors.OpError):
        return RequestError(status_code(error.error_code), error.message)
    return RequestError(grpc.StatusCode.UNKNOWN, f"{type(error).__name__}: {error}")
