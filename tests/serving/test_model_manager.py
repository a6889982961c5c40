"""Versions on disk and in memory, with a loader that loads nothing."""

import gc
import threading
import time
import weakref
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

    def shop(self, policy: Any = NEWEST, **labels: int) -> ModelConfig:
        """The configuration of the model `shop`."""
        return ModelConfig("shop", self.base_path, policy, labels)

    @contextmanager
    def manager(self, policy: Any = NEWEST, labels_early: bool = False, **timing: Any) -> Iterator[ModelManager]:
        """A manager of the one model `shop`, stopped at the end."""
        how_often = Timing(**{"poll_seconds": 0.01} | timing)
        manager = ModelManager(lambda directory: self.load(directory), how_often, labels_early)
        manager.configure([self.shop(policy)])
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


def test_model_left_out_of_a_new_configuration_is_unloaded_once_its_requests_are_done(disk: Disk) -> None:
    disk.add(1)
    with disk.manager() as manager:
        manager.wait_until_available(5)
        with manager.use("shop", None) as (servable, _):
            manager.configure([])
            eventually(lambda: states(manager) == {1: State.UNLOADING})
            with pytest.raises(RequestError, match=r"Servable not found for request: Latest\(shop\)"):
                manager._acquire("shop", None)
            assert not servable.closed
        eventually(lambda: states(manager) == {1: State.END})
        assert servable.closed


def test_model_that_comes_back_is_new_and_loaded_again(disk: Disk) -> None:
    disk.add(1)
    with disk.manager() as manager:
        manager.wait_until_available(5)
        assert manager.configure([]) == []
        (new,) = manager.configure([disk.shop()])
        new.wait_until_available(time.monotonic() + 5, wait_for_files=False)
        assert disk.attempts == [1, 1]
        with manager.use("shop", None) as (servable, _):
            assert not servable.closed


def test_changed_policy_is_applied_without_waiting_for_the_next_look(disk: Disk) -> None:
    disk.add(1)
    disk.add(2)
    with disk.manager(poll_seconds=0) as manager:
        manager.wait_until_available(5)
        assert states(manager) == {2: State.AVAILABLE}
        assert manager.configure([disk.shop(AllVersions())]) == []
        eventually(lambda: states(manager) == {1: State.AVAILABLE, 2: State.AVAILABLE})


def test_changed_base_path_is_loaded_before_the_old_one_goes_though_its_number_is_the_same(
    disk: Disk, tmp_path: Path
) -> None:
    disk.add(1)
    (tmp_path / "elsewhere" / "1").mkdir(parents=True)
    with disk.manager() as manager:
        manager.wait_until_available(5)
        old = disk.loaded[0]
        manager.configure([ModelConfig("shop", tmp_path / "elsewhere")])
        eventually(lambda: old.closed)
        assert states(manager) == {1: State.AVAILABLE}
        with manager.use("shop", 1) as (servable, number):
            assert (number, servable.directory) == (1, tmp_path / "elsewhere" / "1")


def test_base_path_that_is_not_there_leaves_what_is_served(disk: Disk, tmp_path: Path) -> None:
    disk.add(1)
    with disk.manager() as manager:
        manager.wait_until_available(5)
        manager.configure([ModelConfig("shop", tmp_path / "nowhere")])
        time.sleep(0.1)
        assert states(manager) == {1: State.AVAILABLE}


def test_without_polling_a_new_version_is_not_found(disk: Disk) -> None:
    disk.add(1)
    with disk.manager(poll_seconds=0) as manager:
        manager.wait_until_available(5)
        disk.add(2)
        time.sleep(0.1)
        assert states(manager) == {1: State.AVAILABLE}


def test_version_is_found_by_its_label(disk: Disk) -> None:
    disk.add(1)
    disk.add(2)
    with disk.manager(AllVersions()) as manager:
        eventually(lambda: states(manager) == {1: State.AVAILABLE, 2: State.AVAILABLE})
        manager.configure([disk.shop(AllVersions(), stable=1, canary=2)])
        with manager.use("shop", "stable") as (_, number):
            assert number == 1
        with manager.use("shop", "canary") as (_, number):
            assert number == 2
        assert [version.number for version in manager.status("shop", "stable")] == [1]


def test_unknown_label_is_an_invalid_argument(disk: Disk) -> None:
    disk.add(1)
    with disk.manager() as manager:
        manager.wait_until_available(5)
        with pytest.raises(RequestError, match="Unrecognized servable version label: canary") as caught:
            manager._acquire("shop", "canary")
        assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT


def test_label_for_a_version_that_is_not_loaded_changes_nothing(disk: Disk) -> None:
    disk.add(1)
    with disk.manager() as manager:
        manager.wait_until_available(5)
        manager.configure([disk.shop(stable=1)])
        with pytest.raises(RequestError) as caught:
            manager.configure([disk.shop(AllVersions(), stable=2)])
        assert caught.value.code == grpc.StatusCode.FAILED_PRECONDITION
        assert caught.value.message.startswith(
            "Request to assign label to version 2 of model shop, which is not currently available for inference"
        )
        with manager.use("shop", "stable") as (_, number):
            assert number == 1
        assert manager._models["shop"].config == disk.shop(stable=1)


def test_label_may_come_before_its_version_where_that_is_allowed_but_not_move_there(disk: Disk) -> None:
    with disk.manager(labels_early=True) as manager:
        manager.configure([disk.shop(stable=1)])
        with pytest.raises(RequestError, match=r"Specific\(shop, 1\)") as caught:
            manager._acquire("shop", "stable")
        assert caught.value.code == grpc.StatusCode.NOT_FOUND
        disk.add(1)
        manager.wait_until_available(5)
        with manager.use("shop", "stable") as (_, number):
            assert number == 1
        with pytest.raises(RequestError, match="assign label to version 2 of model shop"):
            manager.configure([disk.shop(stable=2)])


def test_label_moves_without_a_failed_request(disk: Disk) -> None:
    disk.add(1)
    disk.add(2)
    both = AllVersions()
    with disk.manager(both) as manager:
        eventually(lambda: states(manager) == {1: State.AVAILABLE, 2: State.AVAILABLE})
        manager.configure([disk.shop(both, stable=1)])
        seen: list[int] = []
        stopping = threading.Event()

        def ask() -> None:
            while not stopping.is_set():
                with manager.use("shop", "stable") as (servable, number):
                    assert not servable.closed
                    seen.append(number)

        asking = threading.Thread(target=ask)
        asking.start()
        manager.configure([disk.shop(NEWEST, stable=2)])
        eventually(lambda: states(manager)[1] == State.END and seen[-1:] == [2])
        stopping.set()
        asking.join(5)
        # Ascending: never back to the old one.
        assert seen == sorted(seen)


def test_failed_version_keeps_nothing_of_what_was_loaded(disk: Disk) -> None:
    loaded: list[weakref.ref[FakeServable]] = []

    def load(directory: Path) -> Any:
        servable = FakeServable(directory)
        loaded.append(weakref.ref(servable))
        raise RequestError(grpc.StatusCode.INVALID_ARGUMENT, "warm-up fails")

    disk.load = load  # type: ignore[method-assign]
    disk.add(1)
    with disk.manager(load_retries=0) as manager:
        eventually(lambda: states(manager) == {1: State.END})
        gc.collect()
        assert loaded[0]() is None
