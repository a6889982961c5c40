"""The client against a server with a recommender whose answers anyone can see (TinyRecommender)."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest, SignatureDefMap
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusResponse
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from protos import predict_pb2
from serving.client import Context, Recommendations, RecommenderClient, RecommenderError
from serving.model_config import model_configs_for
from serving.server import ModelServer
from tests.serving.models import HISTORY_LENGTH, TinyRecommender, publish


@pytest.fixture(scope="module")
def client(server: ModelServer) -> RecommenderClient:
    return RecommenderClient(server.address, timeout=10)


@pytest.mark.parametrize("module", ["serving.client", "serving.client_aio"])
def test_client_starts_without_tensorflow(module: str) -> None:
    code = (
        f"import sys, time, {module}; seconds = time.process_time(); "
        "print([m for m in sys.modules if m.startswith(('tensorflow', 'numpy'))], seconds)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    modules, seconds = shown.stdout.rsplit(maxsplit=1)
    assert modules == "[]"
    # Half a second on a quiet machine, where it is a quarter; a core that is shared takes longer for the same work.
    assert float(seconds) < 1.0


def test_recommends_best_first(client: RecommenderClient) -> None:
    # The newest product stands in slot 5, the one before in slot 4, the rest in none.
    assert client.recommend(["sku-2", "sku-5"], k=3) == Recommendations(
        item_ids=("sku-5", "sku-2", "sku-1"), scores=(5.0, 4.0, 0.0), version=1
    )


def test_empty_history_is_answered(client: RecommenderClient) -> None:
    assert client.recommend([], k=2).item_ids == ("sku-1", "sku-2")


def test_unknown_product_is_no_error(client: RecommenderClient) -> None:
    assert client.recommend(["sku-999", "sku-4"], k=1).item_ids == ("sku-4",)


def test_history_of_ten_thousand_is_cut_to_the_newest(client: RecommenderClient) -> None:
    answer = client.recommend(["sku-6"] * 9_999 + ["sku-3"], k=2)
    assert (answer.item_ids, answer.scores) == (("sku-3", "sku-6"), (5.0, 4.0))


def test_direct_request_of_another_width_is_refused(server: ModelServer) -> None:
    request = PredictRequest()
    request.model_spec.name = "recommender"
    request.inputs["history_item_ids"].CopyFrom(tf.make_tensor_proto(np.full((1, 10_000), "sku-1")))
    with pytest.raises(grpc.RpcError) as caught:
        PredictionServiceStub(grpc.insecure_channel(server.address)).Predict(request, timeout=10)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == (
        f'input "history_item_ids" must be string [?, {HISTORY_LENGTH}], received string [1, 10000]'
    )


def test_event_types_and_timestamps_stay_beside_their_products(client: RecommenderClient) -> None:
    answer = client.recommend(
        ["sku-1"] * 7 + ["sku-2"],
        k=1,
        event_types=["view"] * 7 + ["purchase"],
        timestamps=[1_000] * 7 + [5_000],
        context=Context(timestamp=6_000),
    )
    # Slot 5, bought (+ 100), 1,000 s ago (+ 1).
    assert (answer.item_ids, answer.scores) == (("sku-2",), (106.0,))


def test_excluded_product_goes_last(client: RecommenderClient) -> None:
    assert client.recommend(["sku-1"], k=6, exclude=["sku-1"]).item_ids[-1] == "sku-1"


def test_retrieve_returns_all_candidates(client: RecommenderClient) -> None:
    assert len(client.retrieve(["sku-1"]).item_ids) == 6


def test_rank_returns_the_candidates_without_padding(client: RecommenderClient) -> None:
    assert client.rank(["sku-1", "sku-2"], ["sku-9", "sku-1", "sku-2"]).item_ids == ("sku-2", "sku-1", "sku-9")


def test_similar_items(client: RecommenderClient) -> None:
    assert len(client.similar_items("sku-3", k=2).item_ids) == 2


def test_complementary_items(client: RecommenderClient) -> None:
    # The small model's are the others from the end of the catalogue, all with the score 0.
    answer = client.complementary_items("sku-5", k=2)
    assert answer.item_ids == ("sku-6", "sku-4")
    assert answer.scores == (0.0, 0.0)


def test_embed_user(client: RecommenderClient) -> None:
    assert client.embed_user(["sku-1", "sku-1", "sku-3"]) == (2.0, 0.0, 1.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"k": 0}, "k must be at least 1, received 0"),
        ({"k": 7}, "k must be at most 6, which the model was exported with; received 7"),
        ({"event_types": ["view"]}, r"event_types must have one entry per product of the history \(2\), received 1"),
        ({"timestamps": []}, r"timestamps must have one entry per product of the history \(2\), received 0"),
        ({"exclude": ["a", "b", "c", "d"]}, "exclude must hold at most 3 product ids.*received 4"),
        ({"exclude": ["a", ""]}, "exclude must hold no empty product id, received one at position 1"),
        (
            {"context": Context(device="phone")},
            "this model takes no context_device; it takes blend, context_timestamp, ",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_argument_that_does_not_fit_is_named(client: RecommenderClient, arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        client.recommend(["sku-1", "sku-2"], **({"k": 3} | arguments))


def test_string_for_a_history_is_refused(client: RecommenderClient) -> None:
    with pytest.raises(ValueError, match="history must be a sequence of product ids, received the string 'sku-1'"):
        client.recommend("sku-1")


def test_too_many_candidates_are_refused(client: RecommenderClient) -> None:
    with pytest.raises(ValueError, match="candidates must hold at most 4 product ids"):
        client.rank([], [f"sku-{n}" for n in range(1, 7)])


def test_model_without_the_signature_is_named(server: ModelServer) -> None:
    with (
        RecommenderClient(server.address, model="scaler") as client,
        pytest.raises(ValueError, match=r"model scaler has no signature recommend; it has .*greet"),
    ):
        client.recommend([])


def test_unknown_model_is_not_found(server: ModelServer) -> None:
    with RecommenderClient(server.address, model="nobody") as client, pytest.raises(RecommenderError) as caught:
        client.recommend([])
    assert caught.value.code == grpc.StatusCode.NOT_FOUND
    assert "Servable not found for request: Latest(nobody)" in str(caught.value)


def test_version_can_be_chosen(server: ModelServer) -> None:
    with (
        RecommenderClient(server.address, version=7) as client,
        pytest.raises(RecommenderError, match=r"NOT_FOUND: .*Specific\(recommender, 7\)"),
    ):
        client.recommend([])


def test_silent_server_meets_the_deadline() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with (
            RecommenderClient(f"127.0.0.1:{silent.getsockname()[1]}", timeout=0.3) as client,
            pytest.raises(RecommenderError) as caught,
        ):
            client.recommend([])
    assert caught.value.code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
    assert time.monotonic() - began < 3


def test_waiting_for_an_absent_server_ends_with_its_address() -> None:
    with (
        RecommenderClient("127.0.0.1:1") as client,
        pytest.raises(RecommenderError, match=r"recommender at 127\.0\.0\.1:1 was not ready after 0\.3 s: UNAVAILABLE"),
    ):
        client.wait_until_ready(timeout=0.3)


def test_ready_model_tells_its_version(client: RecommenderClient) -> None:
    assert client.wait_until_ready() == 1


@pytest.mark.parametrize("length", [3, 8])
def test_new_version_with_another_history_length_needs_no_new_client(
    recommender: Path, tmp_path: Path, length: int
) -> None:
    publish(recommender, tmp_path / "recommender", 1)
    with ModelServer(model_configs_for(tmp_path), 0) as server:
        server.wait_until_available(60)
        with RecommenderClient(server.address) as client:
            assert client.recommend(["sku-2"], k=1).scores == (5.0,)
            TinyRecommender(length).save(tmp_path / "whole")
            publish(tmp_path / "whole", tmp_path / "recommender", 2)
            end = time.monotonic() + 30
            while client.wait_until_ready() == 1:
                assert time.monotonic() < end
                time.sleep(0.02)
            assert client.recommend(["sku-2"], k=1) == Recommendations(("sku-2",), (float(length),), version=2)


def test_messages_are_those_of_tensorflow_serving(server: ModelServer) -> None:
    request = predict_pb2.PredictRequest(
        model_spec=predict_pb2.ModelSpec(name="m", signature_name="rank"), output_filter=["scores"]
    )
    request.model_spec.version.value = 3
    request.inputs["x"].CopyFrom(predict_pb2.Tensor(dtype=predict_pb2.DT_INT64, int64_val=[1, 2]))
    request.inputs["x"].tensor_shape.dim.add(size=2)
    theirs = PredictRequest.FromString(request.SerializeToString())
    assert tf.make_ndarray(theirs.inputs["x"]).tolist() == [1, 2]
    assert (theirs.model_spec.version.value, theirs.model_spec.signature_name) == (3, "rank")
    assert theirs.output_filter[:] == ["scores"]


def test_answers_of_tensorflow_serving_are_read() -> None:
    theirs = PredictResponse()
    theirs.outputs["scores"].CopyFrom(tf.make_tensor_proto(np.float32([[1.5, 2.5]])))
    theirs.model_spec.version.value = 4
    ours = predict_pb2.PredictResponse.FromString(theirs.SerializeToString())
    assert ours.outputs["scores"].tensor_content == np.float32([1.5, 2.5]).tobytes()
    status = GetModelStatusResponse()
    status.model_version_status.add(version=4, state=30)
    read = predict_pb2.GetModelStatusResponse.FromString(status.SerializeToString())
    assert read.model_version_status[0].state == predict_pb2.ModelVersionStatus.AVAILABLE


def test_metadata_of_tensorflow_serving_is_read(server: ModelServer) -> None:
    request = GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "recommender"
    theirs = PredictionServiceStub(grpc.insecure_channel(server.address)).GetModelMetadata(request, timeout=10)
    published = SignatureDefMap.FromString(theirs.metadata["signature_def"].value)
    ours = predict_pb2.SignatureDefMap.FromString(theirs.metadata["signature_def"].value)
    assert set(ours.signature_def) == set(published.signature_def)
    shape = ours.signature_def["rank"].inputs["candidate_item_ids"].tensor_shape
    assert [dim.size for dim in shape.dim] == [-1, 4]
