"""One log through every runner that this machine has: the same bytes."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import create_runner

from pipeline.config import SHIPPED, load_config
from tests.transform.event_logs import busy_days, write_busy_shop, write_files
from tests.transform.faults import tandem
from tests.transform.small_tables import files_of
from transform.config import BeamConfig

CONFIGURATIONS = sorted((SHIPPED / "beam").glob("*.yaml"))
_REPOSITORY = SHIPPED.parents[1]


def configuration(name: str) -> str:
    return (SHIPPED / "beam" / f"{name}.yaml").read_text()


@pytest.mark.parametrize("file", CONFIGURATIONS, ids=lambda file: file.stem)
def test_shipped_configurations_are_values_of_the_key_and_known_to_beam(file: Path) -> None:
    beam = load_config(None, [f"transform.beam={file.read_text()}"]).transform.beam
    assert isinstance(beam, BeamConfig)
    create_runner(beam.runner)
    flags = list(beam.options)
    known = PipelineOptions(flags).get_all_options(drop_default=True)
    unknown = (
        PipelineOptions(flags).get_all_options(drop_default=True, retain_unknown_options=True).keys() - known.keys()
    )
    assert not unknown
    # Flags that say what is the default anyway would say nothing.
    assert len(known) == len(flags)


# --- for real


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_busy_shop(tmp_path_factory.mktemp("data"), events=3_000)


@pytest.fixture(scope="module")
def in_process(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return transformed(data, tmp_path_factory.mktemp("in_process"))


def transformed(data: Path, folder: Path, beam: str | None = None) -> dict[str, bytes]:
    """What `tandem transform` writes in a process of its own with a value for `transform.beam`."""
    log, run = folder / "log", folder / "run"
    chosen = [] if beam is None else ["--set", f"transform.beam={beam}"]
    assert tandem(log, "transform", "--data", data, "--out", run, *chosen) == 0, log.read_text()
    return {name: content for name, content in files_of(run / "steps" / "transform").items() if name != "step.json"}


@contextmanager
def running(log: Path, *arguments: str, python_path: Path = _REPOSITORY, folder: Path | None = None) -> Iterator[int]:
    """`python -m ARGUMENTS… PORT` as a server until the block ends; gives the port, once something answers there."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port: int = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(python_path), "PYTHONPYCACHEPREFIX": str(log.parent / "compiled")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    # A worker pool starts whatever is called `python`.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with log.open("wb") as messages:
        server = subprocess.Popen(
            [sys.executable, "-m", *arguments, str(port)], env=environment, cwd=folder, stdout=messages, stderr=messages
        )
    try:
        wait_for(port, server, log)
        yield port
    finally:
        server.terminate()
        server.wait()


def wait_for(port: int, server: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("localhost", port)) == 0:
                return
        try:
            server.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
    raise TimeoutError(f"nothing answers at port {port}: {log.read_text()}")


@pytest.fixture(scope="module")
def job_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of Beam's own job service."""
    folder = tmp_path_factory.mktemp("job_service")
    module = "apache_beam.runners.portability.local_job_service_main"
    with running(folder / "log", module, "--staging_dir", str(folder / "staging"), "--port") as port:
        yield f"localhost:{port}"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["threads", "processes"])
def test_workers_on_this_machine_write_the_same_bytes(
    name: str, data: Path, in_process: dict[str, bytes], tmp_path: Path
) -> None:
    assert transformed(data, tmp_path, configuration(name)) == in_process


@pytest.mark.slow
def test_the_job_service_on_loopback_writes_the_same_bytes(
    job_service: str, data: Path, in_process: dict[str, bytes], tmp_path: Path
) -> None:
    beam = configuration("job_service").replace("localhost:8099", job_service)
    assert transformed(data, tmp_path, beam) == in_process


@pytest.mark.slow
def test_a_worker_pool_that_has_nothing_but_the_wheel_writes_the_same_bytes(
    job_service: str, data: Path, in_process: dict[str, bytes], tmp_path: Path
) -> None:
    packages = tmp_path / "packages"
    install_wheel(tmp_path, packages)
    module = "apache_beam.runners.worker.worker_pool_main"
    log = tmp_path / "pool.log"
    with running(log, module, "--service_port", python_path=packages, folder=tmp_path) as port:
        beam = configuration("worker_pool").replace("localhost:8099", job_service)
        assert transformed(data, tmp_path, beam.replace("localhost:50000", f"localhost:{port}")) == in_process
    # The pool's Python has run the wheel's files.
    assert list((tmp_path / "compiled" / packages.relative_to("/") / "transform").glob("sequences.*.pyc"))


def install_wheel(folder: Path, target: Path) -> None:
    """Builds the wheel from a copy of the packages, without a network, and unpacks it into `target`."""
    source = folder / "source"
    for package in ("protos", "transform", "trainer", "serving", "pipeline"):
        shutil.copytree(_REPOSITORY / package, source / package)
    shutil.copy(_REPOSITORY / "pyproject.toml", source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    alone = ["--no-deps", "--no-index"]
    subprocess.run([*pip, "wheel", *alone, "--no-build-isolation", "-w", folder / "dist", source], check=True)
    (wheel,) = (folder / "dist").glob("tandem-*.whl")
    subprocess.run([*pip, "install", *alone, "--no-compile", "--target", target, wheel], check=True)


@pytest.mark.slow
def test_shuffled_row_groups_and_two_processes_write_the_same_bytes(
    data: Path, in_process: dict[str, bytes], tmp_path: Path
) -> None:
    rows = busy_days(3_000)
    times = [(row["user_id"], row["timestamp"]) for row in rows]
    assert len(set(times)) == len(times)
    np.random.default_rng(1).shuffle(rows)
    write_files(tmp_path / "data", rows, files=5, row_group_size=100)
    shutil.copy(data / "items.parquet", tmp_path / "data")
    assert transformed(tmp_path / "data", tmp_path, configuration("processes")) == in_process
