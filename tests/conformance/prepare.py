"""Writes what the server under test is started with: models, models.config, batching.config, monitoring.config.

    python -m tests.conformance.prepare FOLDER

prints the flags that start TensorFlow Serving on them. FOLDER is made anew; the server reads and the tests write in
it, so both must see it under the same path.
"""

import sys
from pathlib import Path

import tensorflow as tf

from tests.serving.models import Scaler, publish

MODELS_CONFIG = "models.config"
BATCHING_CONFIG = "batching.config"
MONITORING_CONFIG = "monitoring.config"
METRICS_PATH = "/monitoring/prometheus/metrics"
# Version → factor of the models that answer y = factor · x.
VERSIONS = {"scaler": {1: 2.0, 2: 3.0}, "swapped": {1: 2.0}}
PROBE = "probe"
MAX_BATCH_SIZE = 8
_MODELS = """
model_config_list {{
  config {{
    name: "scaler" base_path: "{folder}/scaler" model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: 2 }} }}
  }}
  config {{ name: "swapped" base_path: "{folder}/swapped" model_platform: "tensorflow" }}
  config {{ name: "probe" base_path: "{folder}/probe" model_platform: "tensorflow" }}
}}
"""
_BATCHING = f"""
max_batch_size {{ value: {MAX_BATCH_SIZE} }}
batch_timeout_micros {{ value: 0 }}
max_enqueued_batches {{ value: 100 }}
num_batch_threads {{ value: 2 }}
allowed_batch_sizes: 2
allowed_batch_sizes: 4
allowed_batch_sizes: {MAX_BATCH_SIZE}
"""
_MONITORING = f'prometheus_config {{ enable: true path: "{METRICS_PATH}" }}'


class Probe(tf.Module):
    """Tells how it was run: `serving_default` (a [B], b [B]) answers each row with the rows of its batch."""

    def save(self, directory: Path) -> Path:
        """Writes `serving_default` and `sum`, whose output has no batch dimension."""
        row = tf.TensorSpec([None], tf.float32)

        @tf.function(input_signature=[row, row])
        def size(a: tf.Tensor, b: tf.Tensor) -> dict[str, tf.Tensor]:
            rows = tf.cast(tf.shape(a)[0], tf.float32)
            return {"rows": tf.fill(tf.shape(a), rows), "sum": a + b}

        @tf.function(input_signature=[row])
        def total(a: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"total": tf.reduce_sum(a)}

        tf.saved_model.save(self, str(directory), signatures={"serving_default": size, "sum": total})
        return directory


def prepare(folder: Path, saved: Path) -> None:
    """Writes models and configuration into `folder`, with `saved` for what is copied from."""
    for name, versions in VERSIONS.items():
        for version, factor in versions.items():
            publish(Scaler(factor).save(saved / f"{name}-{version}"), folder / name, version)
    publish(Probe().save(saved / PROBE), folder / PROBE, 1)
    (folder / MODELS_CONFIG).write_text(_MODELS.format(folder=folder))
    (folder / BATCHING_CONFIG).write_text(_BATCHING)
    (folder / MONITORING_CONFIG).write_text(_MONITORING)


def flags(folder: Path) -> list[str]:
    """How TensorFlow Serving is started on it."""
    return [
        "--port=8500",
        "--rest_api_port=8501",
        f"--model_config_file={folder / MODELS_CONFIG}",
        "--enable_batching=true",
        f"--batching_parameters_file={folder / BATCHING_CONFIG}",
        f"--monitoring_config_file={folder / MONITORING_CONFIG}",
        # Its default of 4 a core refuses some of the tests' concurrent requests.
        "--grpc_max_threads=64",
        "--file_system_poll_wait_seconds=1",
    ]


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.conformance.prepare FOLDER")
    folder = Path(sys.argv[1]).resolve()
    if folder.exists():
        sys.exit(f"{folder} exists; the tests need a folder of their own, made anew.")
    prepare(folder, folder / "saved")
    print("tensorflow_model_server \\\n  " + " \\\n  ".join(flags(folder)))
    print(
        f"# then: CONFORMANCE_TARGET=localhost:8500 CONFORMANCE_REST_TARGET=localhost:8501 CONFORMANCE_MODELS={folder}"
    )


if __name__ == "__main__":
    main()
