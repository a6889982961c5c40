"""The files in serving_config/: each is what its reader takes, and they agree with each other and with the servers."""

import json
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
import yaml
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.prediction_service_pb2_grpc import (
    PredictionServiceServicer,
    PredictionServiceStub,
    add_PredictionServiceServicer_to_server,
)

from serving.core import ServingCore
from serving.model_config import (
    LatestVersions,
    SpecificVersions,
    model_configs_for,
    parse_models,
    read_model_server_config,
)
from serving.options import ServerOptions, read_batching_parameters, read_monitoring_config
from tests.serving.models import add_warm_up, publish

CONFIG = Path(__file__).parents[2] / "serving_config"
KUBERNETES = CONFIG / "kubernetes"
MODELS = ["recommender", "item_encoder"]
# A tag that names a release: no `latest`, no moving `2`.
PINNED = re.compile(r"[\w./-]+:v?\d+\.\d+\.\d+")
DURATION = re.compile(r"(\d+(ms|[smhdwy]))+")
# Prometheus' own, and the kubelet's.
FOREIGN_METRICS = {"up", "container_memory_working_set_bytes", "container_spec_memory_limit_bytes"}


def yaml_of(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml_of(CONFIG / "compose.yaml")


@pytest.fixture(scope="module")
def manifests() -> dict[tuple[str, str], dict[str, Any]]:
    """What kubectl applies, by kind and name."""
    found = {}
    for name in yaml_of(CONFIG / "kustomization.yaml")["resources"]:
        for manifest in yaml.safe_load_all((CONFIG / name).read_text(encoding="utf-8")):
            found[manifest["kind"], manifest["metadata"]["name"]] = manifest
    return found


@pytest.fixture(scope="module")
def pod(manifests: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    return manifests["Deployment", "recommender"]["spec"]["template"]


def server_container(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = [one for one in pod["spec"]["containers"] if one["name"] == "tensorflow-serving"]
    return container


# What both engines read


def test_models_config_begins_with_both_labels_on_a_version_it_serves() -> None:
    recommender, encoder = parse_models(read_model_server_config(CONFIG / "models.config"))
    assert (recommender.name, str(recommender.base_path)) == ("recommender", "/models/recommender")
    assert recommender.policy == SpecificVersions(frozenset({1}))
    assert recommender.labels == {"champion": 1, "canary": 1}
    assert (encoder.name, str(encoder.base_path)) == ("item_encoder", "/models/item_encoder")
    assert encoder.policy == LatestVersions(1)


def test_batch_sizes_increase_up_to_the_largest() -> None:
    batching = read_batching_parameters(CONFIG / "batching.config")
    sizes = list(batching.allowed_batch_sizes)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == batching.max_batch_size.value
    assert not batching.pad_variable_length_inputs
    # Two cores.
    assert batching.num_batch_threads.value == 2


def test_metrics_are_where_prometheus_looks() -> None:
    monitoring = read_monitoring_config(CONFIG / "monitoring.config").prometheus_config
    assert monitoring.enable
    jobs = yaml_of(CONFIG / "prometheus.yml")["scrape_configs"]
    assert {job["metrics_path"] for job in jobs} == {monitoring.path}


# Prometheus and Grafana


def expressions() -> Iterator[tuple[str, str]]:
    """Every PromQL expression with where it stands."""
    for group in yaml_of(CONFIG / "alerts.yml")["groups"]:
        for rule in group["rules"]:
            yield f"alert {rule['alert']}", rule["expr"]
    dashboard = json.loads((CONFIG / "grafana/dashboards/recommender.json").read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield f"panel {panel['title']}", target["expr"]
    for variable in dashboard["templating"]["list"]:
        yield f"variable {variable['name']}", variable["query"]["query"]


def metrics_in(expression: str) -> set[str]:
    """Names of the metrics of a PromQL expression: what is neither a label, a string, a function nor a keyword."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(by|on)\s*\([^)]*\)|, \w+\)", " ", bare)
    names = set(re.findall(r"(?<![\w.:$])[a-zA-Z_:][\w:]*(?!\s*\()\b", bare))
    return {name for name in names if name not in {"or", "unless", "offset", "by", "le"} and not name[0].isdigit()}


def test_metric_names_are_found_in_expressions() -> None:
    expression = 'histogram_quantile(0.99, sum by (job, le) (rate(:a:b_bucket{x="y"}[5m]))) > 5 unless up offset 15m'
    assert metrics_in(expression) == {":a:b_bucket", "up"}
    assert metrics_in("label_values(:a:c, model_name)") == {":a:c"}


def test_parentheses_and_braces_of_expressions_close() -> None:
    for where, expression in expressions():
        bare = re.sub(r'"[^"]*"', "", expression)
        for opening, closing in ("()", "{}", "[]"):
            assert bare.count(opening) == bare.count(closing), where


def test_rates_and_thresholds_of_latency_are_in_microseconds() -> None:
    rules = {rule["alert"]: rule["expr"] for rule in yaml_of(CONFIG / "alerts.yml")["groups"][0]["rules"]}
    # 50 ms.
    assert rules["RequestsSlow"].rstrip().endswith("> 50000")
    dashboard = json.loads((CONFIG / "grafana/dashboards/recommender.json").read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        if any("latency" in target["expr"] for target in panel["targets"]):
            assert panel["fieldConfig"]["defaults"]["unit"] == "µs", panel["title"]


def test_quantiles_keep_the_bucket_bounds() -> None:
    quantiles = [(where, text) for where, text in expressions() if "histogram_quantile" in text]
    assert len(quantiles) >= 5
    for where, text in quantiles:
        assert re.search(r"by \([^)]*\ble\b[^)]*\)", text), where
        assert [name[-7:] for name in metrics_in(text)] == ["_bucket"], where


def test_alert_rules_are_whole() -> None:
    names = set()
    for group in yaml_of(CONFIG / "alerts.yml")["groups"]:
        for rule in group["rules"]:
            assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
            assert DURATION.fullmatch(rule.get("for", "0s")), rule["alert"]
            for duration in re.findall(r"\[(\w+)\]|offset (\w+)", rule["expr"]):
                assert DURATION.fullmatch("".join(duration)), rule["alert"]
            assert rule["labels"]["severity"] in {"page", "warn"}
            assert set(rule["annotations"]) == {"summary", "action"}
            names.add(rule["alert"])
    wanted = {"RequestsFail", "RequestsSlow", "NoRequests", "VersionNotLoaded", "WarmUpFailed", "MemoryNearLimit"}
    assert wanted <= names


def test_prometheus_loads_the_rules_and_scrapes_both_services(compose: dict[str, Any]) -> None:
    prometheus = yaml_of(CONFIG / "prometheus.yml")
    assert [(CONFIG / name).is_file() for name in prometheus["rule_files"]] == [True]
    for job in prometheus["scrape_configs"]:
        for target in job["static_configs"][0]["targets"]:
            host, port = target.split(":")
            assert host in compose["services"]
            assert any(published.endswith(f":{port}") for published in compose["services"][host]["ports"])


def test_the_dashboard_shows_what_is_asked_of_it() -> None:
    dashboard = json.loads((CONFIG / "grafana/dashboards/recommender.json").read_text(encoding="utf-8"))
    shown = {name for where, text in expressions() if where.startswith("panel") for name in metrics_in(text)}
    serving = ":tensorflow:serving:"
    assert {
        f"{serving}request_count",
        f"{serving}request_latency_bucket",
        f"{serving}runtime_latency_bucket",
        f"{serving}batching_session:queuing_latency_bucket",
        f"{serving}model_warmup_latency_count",
        ":tensorflow:cc:saved_model:load_attempt_count",
    } <= shown
    (latency,) = [panel for panel in dashboard["panels"] if panel["title"] == "Request latency"]
    quantiles = [re.findall(r"histogram_quantile\(([\d.]+)", target["expr"])[0] for target in latency["targets"]]
    assert quantiles == ["0.5", "0.9", "0.99"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_every_panel_asks_the_provisioned_data_source() -> None:
    (source,) = yaml_of(CONFIG / "grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    dashboard = json.loads((CONFIG / "grafana/dashboards/recommender.json").read_text(encoding="utf-8"))
    asked = [panel["datasource"] for panel in dashboard["panels"] + dashboard["templating"]["list"]]
    assert all(one == {"type": source["type"], "uid": source["uid"]} for one in asked)
    (provider,) = yaml_of(CONFIG / "grafana/provisioning/dashboards/recommender.yaml")["providers"]
    mounts = yaml_of(CONFIG / "compose.yaml")["services"]["grafana"]["volumes"]
    assert provider["options"]["path"] in {mount["target"] for mount in mounts}


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory, scaler: Path) -> dict[str, set[str]]:
    """Labels by metric, of an embedded server that has loaded, warmed up, batched and answered."""
    folder = tmp_path_factory.mktemp("exposed")
    request = PredictRequest()
    request.model_spec.name = "scaler"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.ones((1, 2), np.float32)))
    publish(scaler, folder / "export" / "scaler", 1)
    add_warm_up(folder / "export" / "scaler" / "1", [request])
    batching = read_batching_parameters(CONFIG / "batching.config")
    core = ServingCore(model_configs_for(folder / "export"), ServerOptions(batching=batching))
    core.start()
    try:
        core.wait_until_available(60)
        core.predict(request, "GRPC")
        core.predict(request, "REST")
        series = re.findall(r"^([\w:]+)\{(.*)\} ", core.metrics_text(), re.MULTILINE)
        return {name: set(re.findall(r'(\w+)="', labels)) for name, labels in series}
    finally:
        core.stop()


def test_every_metric_asked_for_is_one_that_the_server_exposes(exposed: dict[str, set[str]]) -> None:
    checked = 0
    for where, text in expressions():
        for name in metrics_in(text) - FOREIGN_METRICS:
            assert name in exposed, (where, name)
            checked += 1
    assert checked >= 15


def test_every_label_asked_for_is_one_that_the_metric_bears(exposed: dict[str, set[str]]) -> None:
    checked = 0
    for where, text in expressions():
        names = metrics_in(text) - FOREIGN_METRICS
        if where.startswith("variable") or len(names) != len(metrics_in(text)):
            continue
        asked = {label for listed in re.findall(r"by \(([^)]*)\)", text) for label in listed.split(", ")}
        asked |= {
            label for selector in re.findall(r"\{([^}]*)\}", text) for label in re.findall(r"(\w+)[=!]", selector)
        }
        # Prometheus itself adds the job.
        for label in asked - {"job"}:
            assert all(label in exposed[name] for name in names), (where, label)
            checked += 1
    assert checked >= 20


# Docker Compose


def test_compose_publishes_on_loopback_only_and_each_port_once(compose: dict[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service["ports"]]
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert len({port.split(":")[1] for port in published}) == len(published)


def test_images_are_pinned(compose: dict[str, Any], pod: dict[str, Any]) -> None:
    images = [service["image"] for service in compose["services"].values()]
    images += [one["image"] for one in pod["spec"]["initContainers"] + pod["spec"]["containers"]]
    images += re.findall(r"^FROM (\S+)", (CONFIG / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert "tensorflow/serving:2.16.1" in images
    for image in images:
        assert PINNED.match(image), image


def test_compose_mounts_what_is_there(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for mount in service["volumes"]:
            if mount["type"] == "volume":
                assert mount["source"] in compose["volumes"], name
            elif not mount["source"].startswith("${RUN"):
                assert (CONFIG / mount["source"]).resolve().is_dir(), (name, mount["source"])
                assert mount["read_only"], (name, mount["source"])
    assert (CONFIG / compose["services"]["embedded"]["build"]["context"] / "serving_config/Dockerfile").is_file()


def test_stock_servers_get_the_portable_form_and_the_embedded_one_scann(
    compose: dict[str, Any], pod: dict[str, Any]
) -> None:
    def recommender(service: str) -> str:
        mounts = compose["services"][service]["volumes"]
        (source,) = [mount["source"] for mount in mounts if mount["target"] == "/models/recommender"]
        return source

    assert recommender("tensorflow-serving").endswith("/export/${PORTABLE:-recommender_portable}")
    assert recommender("embedded").endswith("/export/${SCANN:-recommender}")
    (init,) = pod["spec"]["initContainers"]
    sources = {mount["mountPath"]: mount.get("subPath") for mount in init["volumeMounts"]}
    assert sources["/source/recommender"] == "recommender_portable"


def test_config_files_named_by_flags_are_in_this_folder(compose: dict[str, Any], pod: dict[str, Any]) -> None:
    commands = [compose["services"][name]["command"] for name in ("tensorflow-serving", "embedded", "prometheus")]
    commands += [server_container(pod)["args"], compose["services"]["embedded"]["healthcheck"]["test"]]
    named = [name for command in commands for part in command for name in re.findall(r"/config/([\w.]+)", part)]
    assert len(named) >= 8
    for name in named:
        assert (CONFIG / name).is_file(), name
    mapped = yaml_of(CONFIG / "kustomization.yaml")["configMapGenerator"][0]["files"]
    for name in re.findall(r"/config/([\w.]+)", str(pod)):
        assert name in {Path(file).name for file in mapped}, name


def test_the_image_is_built_from_what_is_in_the_checkout() -> None:
    text = (CONFIG / "Dockerfile").read_text(encoding="utf-8")
    copied = re.findall(r"^COPY (?!--from)(\S+)", text, re.MULTILINE)
    kept = re.findall(r"^!(\S+)", (CONFIG / "Dockerfile.dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(copied) == set(kept)
    for folder in copied:
        assert (CONFIG.parent / folder).is_dir(), folder
    assert re.search(r"^USER (?!root)", text, re.MULTILINE)


# Kubernetes


def gibibytes(quantity: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(Gi|Mi)", quantity).groups()  # type: ignore[union-attr]
    return int(number) / {"Gi": 1, "Mi": 1024}[unit]


def test_memory_holds_two_versions_beside_the_server(pod: dict[str, Any]) -> None:
    stated = pod["metadata"]["annotations"]
    needed = 2 * gibibytes(stated["tandem/model-memory"]) + gibibytes(stated["tandem/server-memory"])
    resources = server_container(pod)["resources"]
    assert gibibytes(resources["limits"]["memory"]) >= needed
    # What is asked for is what is needed: a pod must not be killed during a swap because a node was overcommitted.
    assert resources["requests"]["memory"] == resources["limits"]["memory"]


def test_threads_are_those_of_the_cores_asked_for(pod: dict[str, Any]) -> None:
    container = server_container(pod)
    cores = int(container["resources"]["requests"]["cpu"])
    assert f"--tensorflow_inter_op_parallelism={cores}" in container["args"]
    assert read_batching_parameters(CONFIG / "batching.config").num_batch_threads.value == cores


def test_probes_and_services_refer_to_ports_that_exist(
    manifests: dict[tuple[str, str], dict[str, Any]], pod: dict[str, Any]
) -> None:
    container = server_container(pod)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in container["args"])
    assert ports == {"grpc": int(flags["port"]), "rest": int(flags["rest_api_port"])}
    assert container["livenessProbe"]["tcpSocket"]["port"] in ports
    assert container["env"] == [{"name": "REST_PORT", "value": flags["rest_api_port"]}]
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == flags["rest_api_port"]
    assert pod["metadata"]["annotations"]["prometheus.io/path"] == "/monitoring/prometheus/metrics"
    for name in ("recommender-grpc", "recommender-rest"):
        for port in manifests["Service", name]["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]
    for rule in manifests["NetworkPolicy", "recommender"]["spec"]["ingress"]:
        assert {port["port"] for port in rule["ports"]} <= set(ports)
    # Each pod by its own address: a gRPC client balances itself.
    assert manifests["Service", "recommender-grpc"]["spec"]["clusterIP"] == "None"


def test_everything_selects_the_same_pods(
    manifests: dict[tuple[str, str], dict[str, Any]], pod: dict[str, Any]
) -> None:
    labels = pod["metadata"]["labels"]
    assert manifests["Deployment", "recommender"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests["PodDisruptionBudget", "recommender"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests["NetworkPolicy", "recommender"]["spec"]["podSelector"]["matchLabels"] == labels
    assert manifests["Service", "recommender-grpc"]["spec"]["selector"] == labels
    assert manifests["Service", "recommender-rest"]["spec"]["selector"] == labels


def test_the_autoscaler_scales_the_server_on_its_processor(
    manifests: dict[tuple[str, str], dict[str, Any]], pod: dict[str, Any]
) -> None:
    spec = manifests["HorizontalPodAutoscaler", "recommender"]["spec"]
    assert ("Deployment", spec["scaleTargetRef"]["name"]) in manifests
    (metric,) = spec["metrics"]
    assert metric["containerResource"]["name"] == "cpu"
    assert metric["containerResource"]["container"] == server_container(pod)["name"]
    assert spec["minReplicas"] >= 2
    # The autoscaler's number, not that of each apply.
    assert "replicas" not in manifests["Deployment", "recommender"]["spec"]


def test_containers_run_without_rights(pod: dict[str, Any]) -> None:
    assert pod["spec"]["securityContext"]["runAsNonRoot"]
    for container in pod["spec"]["initContainers"] + pod["spec"]["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_readiness_asks_for_the_status_of_every_model(compose: dict[str, Any], pod: dict[str, Any]) -> None:
    names = [model.name for model in parse_models(read_model_server_config(CONFIG / "models.config"))]
    assert names == MODELS
    container = server_container(pod)
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["exec"]["command"] == ["bash", "/config/models_available.sh", *names]
    for service in ("tensorflow-serving", "embedded"):
        assert compose["services"][service]["healthcheck"]["test"][-2:] == names
    for sync in (pod["spec"]["initContainers"][0], pod["spec"]["containers"][1]):
        assert sync["command"][3:] == names


# The probe


class _StatusPage(BaseHTTPRequestHandler):
    """Answers as TensorFlow Serving's REST port does: 200 with the states, 404 for an unknown model."""

    states: dict[str, str]

    def do_GET(self) -> None:
        model = self.path.rsplit("/", 1)[-1]
        if model in self.states:
            status = {"error_code": "OK", "error_message": ""}
            page: Any = {"model_version_status": [{"version": "1", "state": self.states[model], "status": status}]}
        else:
            page = {"error": f"Could not find any versions of model {model}"}
        body = json.dumps(page, indent=1).encode()
        self.send_response(200 if model in self.states else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        del arguments


@contextmanager
def status_page(states: dict[str, str]) -> Iterator[int]:
    handler = type("_Page", (_StatusPage,), {"states": states})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def probe(port: int, *models: str) -> int:
    script = CONFIG / "models_available.sh"
    environment = os.environ | {"REST_PORT": str(port)}
    return subprocess.run(["bash", script, *models], env=environment, capture_output=True, timeout=10).returncode


@pytest.mark.parametrize(
    ("states", "ready"),
    [
        ({"recommender": "AVAILABLE", "item_encoder": "AVAILABLE"}, True),
        # The page answers 200 all the same.
        ({"recommender": "LOADING", "item_encoder": "AVAILABLE"}, False),
        ({"recommender": "AVAILABLE", "item_encoder": "END"}, False),
        ({"recommender": "AVAILABLE"}, False),
    ],
)
def test_a_pod_is_ready_when_every_model_is_available(states: dict[str, str], ready: bool) -> None:
    with status_page(states) as port:
        assert (probe(port, *MODELS) == 0) == ready


def test_a_pod_without_a_server_is_not_ready() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert probe(unused.getsockname()[1], *MODELS) != 0


# The sidecar


class Volumes:
    """A source of versions and the volume that a server reads."""

    def __init__(self, folder: Path) -> None:
        self.source, self.target = folder / "source", folder / "models"
        self.source.mkdir()
        self.target.mkdir()

    def publish(self, model: str, version: str, *files: str) -> None:
        for file in files or ("saved_model.pb", "variables/variables.index"):
            path = self.source / model / version / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{model} {version}")

    def sync(self, *models: str, **environment: str) -> subprocess.CompletedProcess[str]:
        script = KUBERNETES / "sync_versions.sh"
        paths = {"SOURCE": str(self.source), "TARGET": str(self.target)}
        return subprocess.run(
            ["sh", script, "once", *(models or ("recommender",))],
            env=os.environ | paths | environment,
            capture_output=True,
            text=True,
            timeout=20,
        )

    def versions(self, model: str = "recommender") -> list[str]:
        return sorted(path.name for path in (self.target / model).iterdir())


@pytest.fixture
def volumes(tmp_path: Path) -> Volumes:
    return Volumes(tmp_path)


def test_new_versions_are_brought_whole(volumes: Volumes) -> None:
    volumes.publish("recommender", "1")
    volumes.publish("item_encoder", "1")
    assert volumes.sync("recommender", "item_encoder").returncode == 0
    volumes.publish("recommender", "2")
    assert volumes.sync("recommender", "item_encoder").returncode == 0
    assert volumes.versions() == ["1", "2"]
    assert volumes.versions("item_encoder") == ["1"]
    assert (volumes.target / "recommender/2/variables/variables.index").read_text() == "recommender 2"
    assert list((volumes.target / ".incoming").iterdir()) == []


def test_what_is_not_a_whole_version_is_left_alone(volumes: Volumes) -> None:
    volumes.publish("recommender", "1")
    volumes.publish("recommender", ".2.partial")
    volumes.publish("recommender", "3", "variables/variables.index")
    assert volumes.sync().returncode == 0
    assert volumes.versions() == ["1"]


def test_a_version_waits_for_its_marker(volumes: Volumes) -> None:
    volumes.publish("recommender", "1")
    assert volumes.sync(MARKER="COMPLETE").returncode == 0
    assert not (volumes.target / "recommender").exists()
    volumes.publish("recommender", "1", "COMPLETE")
    assert volumes.sync(MARKER="COMPLETE").returncode == 0
    assert volumes.versions() == ["1"]


def test_a_copy_that_broke_off_is_made_anew(volumes: Volumes) -> None:
    volumes.publish("recommender", "1")
    rest = volumes.target / ".incoming" / "recommender-1"
    rest.mkdir(parents=True)
    (rest / "rubbish").touch()
    assert volumes.sync().returncode == 0
    assert sorted(path.name for path in (volumes.target / "recommender/1").iterdir()) == ["saved_model.pb", "variables"]


def test_a_withdrawn_version_is_removed(volumes: Volumes) -> None:
    for version in ("1", "2"):
        volumes.publish("recommender", version)
    volumes.sync()
    shutil.rmtree(volumes.source / "recommender/1")
    assert volumes.sync().returncode == 0
    assert volumes.versions() == ["2"]


def test_a_lost_source_removes_nothing_and_fails(volumes: Volumes) -> None:
    volumes.publish("recommender", "1")
    volumes.sync()
    shutil.rmtree(volumes.source)
    lost = volumes.sync()
    assert lost.returncode == 1
    assert "no version in" in lost.stderr
    assert volumes.versions() == ["1"]


# The clients' policy


class _Failing(PredictionServiceServicer):
    """Fails the first calls with a status, then answers."""

    def __init__(self, failures: Sequence[grpc.StatusCode]) -> None:
        self.failures = list(failures)
        self.calls = 0

    def Predict(self, request: PredictRequest, context: grpc.ServicerContext) -> PredictResponse:  # noqa: N802
        self.calls += 1
        if self.failures:
            context.abort(self.failures.pop(0), "not now")
        return PredictResponse()


def client_policy() -> dict[str, Any]:
    return json.loads((CONFIG / "grpc_service_config.json").read_text(encoding="utf-8"))


def call_with_policy(*failures: grpc.StatusCode) -> tuple[grpc.StatusCode, int]:
    """Status of one call under the shipped policy, and how often the server was asked."""
    service = _Failing(failures)
    server = grpc.server(ThreadPoolExecutor(1))
    add_PredictionServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    # The shipped deadline is short for a machine that does much else; the attempts are what is looked at.
    policy = client_policy()
    policy["methodConfig"][0]["timeout"] = "60s"
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.service_config", json.dumps(policy))]) as channel:
            PredictionServiceStub(channel).Predict(PredictRequest())
            return grpc.StatusCode.OK, service.calls
    except grpc.RpcError as error:
        return error.code(), service.calls
    finally:
        server.stop(None).wait()


def test_the_policy_asks_again_where_a_server_is_unavailable() -> None:
    assert call_with_policy(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE) == (grpc.StatusCode.OK, 3)


def test_the_policy_gives_up_after_three_attempts() -> None:
    assert call_with_policy(*[grpc.StatusCode.UNAVAILABLE] * 3) == (grpc.StatusCode.UNAVAILABLE, 3)


def test_the_policy_does_not_repeat_a_wrong_request() -> None:
    assert call_with_policy(grpc.StatusCode.INVALID_ARGUMENT) == (grpc.StatusCode.INVALID_ARGUMENT, 1)


def test_the_policy_sets_a_deadline_and_balances() -> None:
    policy = client_policy()
    (method,) = policy["methodConfig"]
    assert method["timeout"] == "1s"
    assert policy["loadBalancingConfig"] == [{"round_robin": {}}]


def test_the_folder_holds_no_python() -> None:
    assert not list(CONFIG.rglob("*.py"))
