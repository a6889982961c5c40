"""Versions on disk and in memory, with a loader that loads nothing."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from serving.errors import RequestError, ServingError
from serving.model_config import AllVersions, LatestVersions, ModelConfig, SpecificVersions
from serving.model_manager import ModelManager, State, Timing

NEWEST = LatestVersions()


class FakeServable:
    """Remembers what became of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Disk:
    """A base path, a loader that fails where a folder holds a file `broken`, and a diary of what happened."""

    def __init__(self, base_path: Path) -> None:
        self.base_path = base_path
        self.loaded: list[FakeServable] = []
        self.attempts: list[int] = []

    def add(self, number: int, broken: bool = False) -> None:
        """A version, put in place in one step."""
        draft = self.base_path / f"draft-{number}"
        draft.mkdir(parents=True)
        if broken:
            (draft / "broken").touch()
        draft.rename(self.base_path / str(number))

    def remove(self, number: int) -> None:
        """A version, taken away in one step."""
        (self.base_path / str(number)).rename(self.base_path / f"removed-{number}")

    def load(self, directory: Path) -> Any:
        """Stands in for TensorFlow."""
        self.attempts.append(int(directory.name))
        if (directory / "broken").exists():
            raise ServingError(f"{directory.name} is broken")
        self.loaded.append(FakeServable(directory))
        return self.loaded[-1]

    def open(self, number: int) -> bool:
        """Whether a version is in memory."""
        return any(servable.directory.name == str(number) and not servable.closed for servable in self.loaded)

    @contextmanager
    def manager(self, policy: Any = NEWEST, **timing: Any) -> Iterator[ModelManager]:
        """A manager of the one model `shop`, stopped at the end."""
        model = ModelConfig("shop", self.base_path, policy)
        manager = ModelManager(lambda directory: self.load(directory), Timing(poll_seconds=0.01, **timing))
        manager.configure([model])
        try:
            yield manager
        finally:
            manager.stop()


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "shop")


def states(manager: ModelManager) -> dict[int, State]:
    try:
        return {version.number: version.state for version in manager.status("shop", None)}
    except RequestError:
        return {}


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, "waited 5 s in vain"
        time.sleep(0.005)


def test_newest_version_is_served(disk: Disk) -> None:
    disk.add(9)
    disk.add(10)
    with disk.manager() as manager:
        manager.wait_until_available(5)
        with manager.use("shop", None) as (_, number):
            assert number == 10
        assert disk.attempts == [10]


def test_new_version_is_loaded_before_the_old_is_unloaded(disk: Disk) -> None:
    disk.add(1)
    with disk.manager() as manager:
        manager.wait_until_available(5)
        both: list[bool] = []
        load = disk.load
        disk.load = lambda directory: (both.append(disk.open(1)), load(directory))[1]  # type: ignore[method-assign]
        disk.add(2)
        eventually(lambda: states(manager) == {1: State.END, 2: State.AVAILABLE})
        assert both == [True]
        assert not disk.open(1)


def test_version_in_use_is_unloaded_only_when_its_request_is_done(disk: Disk) -> None:
    disk.add(1)
    with disk.manager() as manager:
        manager.wait_until_available(5)
        with manager.use("shop", None) as (servable, number):
            disk.add(2)
            eventually(lambda: states(manager) == {1: State.UNLOADING, 2: State.AVAILABLE})
            assert (number, servable.closed) == (1, False)
            with manager.use("shop", None) as (_, newer):
                assert newer == 2
        eventually(lambda: states(manager)[1] == State.END)
        assert servable.closed


def test_broken_version_leaves_the_old_one_serving_and_says_why(disk: Disk) -> None:
    disk.add(1)
    with disk.manager(load_retries=0) as manager:
        manager.wait_until_available(5)
        disk.add(2, broken=True)
        eventually(lambda: states(manager) == {1: State.AVAILABLE, 2: State.END})
        (failed,) = manager.status("shop", 2)
        assert failed.error is not None
        assert (failed.error.code, failed.error.message) == (grpc.StatusCode.NOT_FOUND, "2 is broken")
        with manager.use("shop", None) as (_, number):
            assert number == 1


def test_failed_load_is_tried_again(disk: Disk) -> None:
    disk.add(1, broken=True)
    with disk.manager(load_retries=5, retry_seconds=0.02) as manager:
        eventually(lambda: len(disk.attempts) >= 2)
        assert states(manager) == {1: State.LOADING}
        (disk.base_path / "1" / "broken").unlink()
        eventually(lambda: states(manager) == {1: State.AVAILABLE})
        assert manager.status("shop", 1)[0].error is None


def test_retries_come_to_an_end(disk: Disk) -> None:
    disk.add(1, broken=True)
    with disk.manager(load_retries=2, retry_seconds=0.01) as manager:
        eventually(lambda: states(manager) == {1: State.END})
        time.sleep(0.1)
        assert disk.attempts == [1, 1, 1]


def test_newer_version_does_not_wait_for_retries_of_a_broken_one(disk: Disk) -> None:
    disk.add(1, broken=True)
    with disk.manager(load_retries=5, retry_seconds=60) as manager:
        eventually(lambda: states(manager) == {1: State.LOADING})
        disk.add(2)
        eventually(lambda: states(manager) == {1: State.END, 2: State.AVAILABLE})


def test_deleting_the_newest_version_rolls_back(disk: Disk) -> None:
    disk.add(1)
    disk.add(2)
    with disk.manager() as manager:
        manager.wait_until_available(5)
        disk.remove(2)
        eventually(lambda: states(manager) == {1: State.AVAILABLE, 2: State.END})


def test_version_that_comes_back_is_loaded_again(disk: Disk) -> None:
    disk.add(1, broken=True)
    with disk.manager(load_retries=0) as manager:
        eventually(lambda: states(manager) == {1: State.END})
        disk.remove(1)
        time.sleep(0.1)
        disk.add(1)
        eventually(lambda: states(manager) == {1: State.AVAILABLE})


def test_base_path_out_of_reach_unloads_nothing(disk: Disk) -> None:
    disk.add(1)
    with disk.manager() as manager:
        manager.wait_until_available(5)
        disk.base_path.rename(disk.base_path.with_name("away"))
        time.sleep(0.1)
        assert states(manager) == {1: State.AVAILABLE}


def test_empty_base_path_unloads_everything(disk: Disk) -> None:
    disk.add(1)
    with disk.manager() as manager:
        manager.wait_until_available(5)
        disk.remove(1)
        eventually(lambda: states(manager) == {1: State.END})


def test_all_versions_are_served_side_by_side(disk: Disk) -> None:
    disk.add(1)
    disk.add(2)
    with disk.manager(AllVersions()) as manager:
        eventually(lambda: states(manager) == {1: State.AVAILABLE, 2: State.AVAILABLE})
        with manager.use("shop", 1) as (_, number):
            assert number == 1


def test_specific_version_is_kept_when_a_newer_comes(disk: Disk) -> None:
    disk.add(1)
    disk.add(2)
    with disk.manager(SpecificVersions(frozenset({1}))) as manager:
        manager.wait_until_available(5)
        assert states(manager) == {1: State.AVAILABLE}


def test_waiting_for_a_broken_model_ends_with_the_reason(disk: Disk) -> None:
    disk.add(1, broken=True)
    with (
        disk.manager() as manager,
        pytest.raises(ServingError, match=r"Model shop cannot be loaded. version 1: 1 is broken"),
    ):
        manager.wait_until_available(5)


def test_waiting_without_a_version_ends_with_what_is_missing(disk: Disk) -> None:
    disk.base_path.mkdir()
    with (
        disk.manager() as manager,
        pytest.raises(ServingError, match="No versions of model shop found under base path"),
    ):
        manager.wait_until_available(0.1)


def test_missing_version_is_reported_once(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    with disk.manager():
        time.sleep(0.1)
    assert sum("Could not find base path" in record.message for record in caplog.records) == 1


def test_stopping_waits_for_requests(disk: Disk) -> None:
    disk.add(1)
    with disk.manager() as manager:
        manager.wait_until_available(5)
        with manager.use("shop", None) as (servable, _):
            stopping = threading.Thread(target=manager.stop)
            stopping.start()
            time.sleep(0.05)
            assert not servable.closed
        stopping.join(5)
        assert servable.closed
