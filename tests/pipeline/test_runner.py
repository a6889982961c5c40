"""The step runner: only what changed, whole or not at all, resumed after a kill."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pipeline.config import Config, load_config
from pipeline.runner import Place, Step, StepError, run_steps, step_directory
from transform.checks import DataError


class Chain:
    """Two steps that count how often they ran."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fail = False
        self.steps = (
            Step("first", (), ("transform",), self.first),
            Step("second", ("first",), ("ranker",), self.second, resumes=True),
        )

    def first(self, config: Config, place: Place) -> None:
        self.calls.append("first")
        (place.output / "value").write_text(str(config.transform.buckets))

    def second(self, config: Config, place: Place) -> None:
        self.calls.append("second")
        left = place.output / "left"
        self.found = left.exists()
        left.write_text("half")
        if self.fail:
            raise ValueError("broken on purpose")
        (place.output / "value").write_text((place.step("first") / "value").read_text())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "events.parquet").write_bytes(b"rows")
    return folder


def test_a_second_run_with_nothing_changed_runs_nothing(data: Path, tmp_path: Path) -> None:
    chain = Chain()
    run_steps(chain.steps, Config(), data, tmp_path / "run")
    run_steps(chain.steps, Config(), data, tmp_path / "run")
    assert chain.calls == ["first", "second"]


def test_a_changed_section_reruns_its_step_and_those_after_it(data: Path, tmp_path: Path) -> None:
    chain = Chain()
    run_steps(chain.steps, Config(), data, tmp_path / "run")
    run_steps(chain.steps, load_config(None, ["ranker.dim=32"]), data, tmp_path / "run")
    assert chain.calls == ["first", "second", "second"]
    run_steps(chain.steps, load_config(None, ["ranker.dim=32", "transform.buckets=2"]), data, tmp_path / "run")
    assert chain.calls[3:] == ["first", "second"]
    assert (step_directory(tmp_path / "run", "second") / "value").read_text() == "2"


def test_a_rewritten_table_reruns_everything(data: Path, tmp_path: Path) -> None:
    chain = Chain()
    run_steps(chain.steps, Config(), data, tmp_path / "run")
    (data / "events.parquet").write_bytes(b"other rows")
    run_steps(chain.steps, Config(), data, tmp_path / "run")
    assert chain.calls == ["first", "second"] * 2


def test_a_failed_step_leaves_no_output_and_is_resumed(data: Path, tmp_path: Path) -> None:
    chain = Chain()
    chain.fail = True
    with pytest.raises(ValueError, match="broken on purpose"):
        run_steps(chain.steps, Config(), data, tmp_path / "run")
    assert not step_directory(tmp_path / "run", "second").exists()
    chain.fail = False
    run_steps(chain.steps, Config(), data, tmp_path / "run")
    assert chain.found, "a resumable step finds what its killed attempt left"
    assert chain.calls == ["first", "second", "second"]


def test_a_failed_attempt_under_another_configuration_is_not_resumed(data: Path, tmp_path: Path) -> None:
    chain = Chain()
    chain.fail = True
    with pytest.raises(ValueError, match="broken on purpose"):
        run_steps(chain.steps, Config(), data, tmp_path / "run")
    chain.fail = False
    run_steps(chain.steps, load_config(None, ["ranker.dim=32"]), data, tmp_path / "run")
    assert not chain.found


def test_one_step_alone_needs_the_steps_before_it(data: Path, tmp_path: Path) -> None:
    chain = Chain()
    with pytest.raises(StepError, match="second needs first, which is missing or out of date"):
        run_steps(chain.steps, Config(), data, tmp_path / "run", only="second")
    run_steps(chain.steps, Config(), data, tmp_path / "run", only="first")
    run_steps(chain.steps, Config(), data, tmp_path / "run", only="second")
    assert chain.calls == ["first", "second"]


def test_missing_data_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder. Make one with `tandem import`"):
        run_steps(Chain().steps, Config(), tmp_path / "nowhere", tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no Parquet table"):
        run_steps(Chain().steps, Config(), tmp_path / "empty", tmp_path / "run")


def test_a_run_folder_that_cannot_be_made_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StepError, match=r"cannot write to the run folder .*file/run: Not a directory. Give another"):
        run_steps(Chain().steps, Config(), data, tmp_path / "file" / "run")


def test_two_processes_do_not_work_in_one_run(data: Path, tmp_path: Path) -> None:
    chain = Chain()

    def nested(config: Config, place: Place) -> None:
        run_steps(chain.steps, config, data, place.run)

    with pytest.raises(StepError, match="another tandem process is working in"):
        run_steps((Step("outer", (), (), nested),), Config(), data, tmp_path / "run")


def test_a_killed_run_frees_its_lock_and_finishes_on_the_next_start(data: Path, tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        from pipeline.config import Config
        from pipeline.runner import Step, run_steps

        def die(config, place):
            (place.output / "half").write_text("x")
            os.kill(os.getpid(), signal.SIGKILL)

        steps = (Step("first", (), ("transform",), die),)
        run_steps(steps, Config(), Path({str(data)!r}), Path({str(tmp_path / "run")!r}))
        """
    )
    killed = subprocess.run([sys.executable, "-c", script], env=os.environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    chain = Chain()
    run_steps(chain.steps, Config(), data, tmp_path / "run")
    assert not (step_directory(tmp_path / "run", "first") / "half").exists()
    assert chain.calls == ["first", "second"]
