"""When a model server counts as ready, seen on real servers."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from cryptography import x509
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from pipeline.serving_engine import EngineError
from pipeline.serving_readiness import custom_ops, open_channel, wait_until_answering
from protos.server_config_pb2 import SSLConfig
from serving.model_config import model_configs_for, parse_models
from serving.options import ServerOptions
from serving.server import ModelServer
from tests.serving.models import Scaler, add_warm_up, publish, truncate_variables
from tests.serving.test_tls import identity

DEFAULTS = ServerOptions()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    request = PredictRequest()
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.ones((1, 2), np.float32)))
    return add_warm_up(Scaler(2.0).save(tmp_path_factory.mktemp("saved") / "scaler"), [request])


@contextmanager
def serving(export: Path, options: ServerOptions = DEFAULTS) -> Iterator[ModelServer]:
    with ModelServer(model_configs_for(export), port=0, options=options) as server:
        yield server


def ready(target: str, export: Path, ssl: SSLConfig | None = None, timeout: float = 30.0) -> bool:
    models = parse_models(model_configs_for(export))
    with open_channel(target, ssl) as channel:
        return wait_until_answering(channel, models, lambda: None, threading.Event(), timeout)


@pytest.mark.parametrize("client_verify", [False, True])
def test_a_server_with_tls_is_asked_under_the_name_it_bears(tmp_path: Path, saved: Path, client_verify: bool) -> None:
    authority = identity("authority")
    shop = identity("shop", authority, x509.DNSName("*.shop.example"))
    ssl = SSLConfig(
        server_key=shop.key_pem.decode(),
        server_cert=shop.certificate_pem.decode(),
        custom_ca=authority.certificate_pem.decode(),
        client_verify=client_verify,
    )
    publish(saved, tmp_path / "scaler", 1)
    with serving(tmp_path, ServerOptions(ssl_config=ssl)) as server:
        assert ready(server.address, tmp_path, ssl)


class WithoutOp(tf.Module):
    """Loads, and when it is asked fails with TensorFlow's words about an op that is missing."""

    def save(self, directory: Path) -> Path:
        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
        def scale(x: tf.Tensor) -> dict[str, tf.Tensor]:
            message = "Op type not registered 'Scann>ScannSearchBatched' in binary running on shop-1."
            return {"y": tf.debugging.check_numerics(x / 0.0, message)}

        tf.saved_model.save(self, str(directory), signatures={"serving_default": scale})
        return directory


def test_available_is_not_ready_until_it_answers(tmp_path: Path, saved: Path) -> None:
    broken = WithoutOp().save(tmp_path / "saved")
    publish(broken, tmp_path / "served" / "scaler", 1)
    # The server does not replay this itself, so that the model is AVAILABLE, as one without its ops is in TensorFlow
    # Serving where the export holds no warm-up requests or the server is told to leave them.
    asked = publish(broken, tmp_path / "asked" / "scaler", 1)
    shutil.copytree(saved / "assets.extra", asked / "assets.extra")
    with serving(tmp_path / "served") as server, pytest.raises(EngineError) as caught:
        ready(server.address, tmp_path / "asked")
    message = str(caught.value)
    assert message.startswith("The server does not answer for model scaler version 1: INVALID_ARGUMENT: ")
    assert "A model needs the op Scann>ScannSearchBatched, which this tensorflow_model_server does not hold" in message
    assert "tandem export … --index portable" in message


def test_a_server_that_gave_a_model_up_is_not_waited_for(tmp_path: Path, saved: Path) -> None:
    truncate_variables(publish(saved, tmp_path / "scaler", 1))
    with (
        serving(tmp_path, ServerOptions(max_num_load_retries=0)) as server,
        pytest.raises(
            EngineError,
            match=r"^The server does not answer for model scaler version 1: (?s:.*)Read less bytes than requested",
        ),
    ):
        ready(server.address, tmp_path)


def test_a_server_that_is_not_there_is_waited_for_in_vain(tmp_path: Path, saved: Path) -> None:
    publish(saved, tmp_path / "scaler", 1)
    with pytest.raises(EngineError, match=r"Model scaler was not AVAILABLE after 0 s: UNAVAILABLE: "):
        ready("127.0.0.1:1", tmp_path, timeout=0.2)


def test_a_model_without_warm_up_requests_is_said_not_to_be_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(Scaler(2.0).save(tmp_path / "saved"), tmp_path / "export" / "scaler", 1)
    with serving(tmp_path / "export") as server:
        assert ready(server.address, tmp_path / "export")
    assert (
        "model scaler version 1 holds no assets.extra/tf_serving_warmup_requests: AVAILABLE, not asked" in caplog.text
    )


def test_ops_are_those_that_the_newest_version_needs(tmp_path: Path, saved: Path) -> None:
    for version, content in ((9, '{"custom_ops": []}'), (10, '{"custom_ops": ["Scann"], "index": {"kind": "scann"}}')):
        directory = publish(saved, tmp_path / "recommender", version)
        (directory / "assets.extra" / "tandem.json").write_text(content)
    publish(saved, tmp_path / "item_encoder", 10)
    assert list(custom_ops(parse_models(model_configs_for(tmp_path)))) == [("recommender", ["Scann"])]
