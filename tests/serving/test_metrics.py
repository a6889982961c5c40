"""Prometheus text as TensorFlow Serving writes it."""

import numpy as np
import pytest

from serving.metrics import MAX_SERIES, Counter, Histogram, ServingMetrics, exponential_bounds


def test_counter_has_a_line_per_set_of_labels() -> None:
    counter = Counter("/tensorflow/serving/request_count", "model_name", "status")
    counter.add("shop", "OK")
    counter.add("shop", "OK", amount=2)
    counter.add("shop", "NOT_FOUND")
    assert list(counter.lines()) == [
        ':tensorflow:serving:request_count{model_name="shop",status="OK"} 3',
        ':tensorflow:serving:request_count{model_name="shop",status="NOT_FOUND"} 1',
    ]


def test_histogram_counts_up_to_each_bound() -> None:
    histogram = Histogram("/a/latency", "api", bounds=[10.0, 18.0])
    for value in (3, 10, 11, 500):
        histogram.observe(value, "Predict")
    assert list(histogram.lines()) == [
        ':a:latency_bucket{api="Predict",le="10"} 2',
        ':a:latency_bucket{api="Predict",le="18"} 3',
        ':a:latency_bucket{api="Predict",le="+Inf"} 4',
        ':a:latency_sum{api="Predict"} 524',
        ':a:latency_count{api="Predict"} 4',
    ]


def test_latency_buckets_are_tensorflow_serving_s() -> None:
    bounds = exponential_bounds(10, 1.8, 33)
    assert len(bounds) == 33
    np.testing.assert_allclose(bounds[:4], [10, 18, 32.4, 58.32])
    # About 25 minutes.
    assert bounds[-1] == pytest.approx(10 * 1.8**32)


def test_label_values_are_escaped() -> None:
    counter = Counter("c", "name")
    counter.add('a"b\\c\nd')
    assert list(counter.lines()) == ['c{name="a\\"b\\\\c\\nd"} 1']


def test_names_that_clients_invent_do_not_grow_the_memory_without_bound() -> None:
    counter = Counter("c", "model_name", "status")
    for number in range(MAX_SERIES + 5):
        counter.add(f"model-{number}", "NOT_FOUND")
    lines = list(counter.lines())
    assert len(lines) == MAX_SERIES + 1
    assert lines[-1] == 'c{model_name="other",status="other"} 5'


def test_a_name_of_a_megabyte_is_no_label() -> None:
    counter = Counter("c", "model_name")
    counter.add("x" * 1_000_000)
    counter.add("x" * 1_000)
    assert list(counter.lines()) == ['c{model_name="other"} 1', f'c{{model_name="{"x" * 1_000}"}} 1']


def test_every_metric_has_its_type() -> None:
    text = ServingMetrics().text()
    assert "# TYPE :tensorflow:serving:request_count counter\n" in text
    assert "# TYPE :tensorflow:serving:request_latency histogram\n" in text
    assert "# TYPE :tensorflow:serving:runtime_latency histogram\n" in text
    assert "# TYPE :tensorflow:serving:model_warmup_latency histogram\n" in text
    assert "# TYPE :tensorflow:serving:batching_session:queuing_latency histogram\n" in text
    assert "# TYPE :tensorflow:cc:saved_model:load_attempt_count counter\n" in text
    assert "# TYPE :tensorflow:cc:saved_model:load_latency counter\n" in text
