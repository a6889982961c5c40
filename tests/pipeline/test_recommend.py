"""`tandem recommend` against a running server: over gRPC, over REST, with certificates."""

import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from pipeline.cli import main
from serving.model_config import model_configs_for
from serving.server import ModelServer
from tests.serving.certificates import Authority
from tests.serving.grpc_proxy import proxy
from tests.serving.models import TinyRecommender, publish
from tests.serving.rest_bridge import bridge


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    folder = tmp_path_factory.mktemp("models")
    publish(TinyRecommender().save(folder / "saved"), folder / "export" / "recommender", 1)
    with ModelServer(model_configs_for(folder / "export"), port=0) as running:
        running.wait_until_available(60)
        yield running


def asked(capsys: pytest.CaptureFixture[str], run: Path, *arguments: str) -> str:
    """What the command prints for a shopper with two products, newest sku-5."""
    assert main(["recommend", "--history", "sku-2,sku-5", "-k", "2", "--run", str(run), *arguments]) == 0
    return capsys.readouterr().out


def test_rest_prints_the_table_of_grpc(server: ModelServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    over_grpc = asked(capsys, tmp_path, "--target", server.address)
    assert f"2 recommendations from {server.address}, version 1:" in over_grpc
    assert over_grpc.index("sku-5  ") < over_grpc.rindex("sku-2  ")
    with bridge(server.address) as rest:
        over_rest = asked(capsys, tmp_path, "--rest-target", rest.address)
    assert over_rest == over_grpc.replace(server.address, rest.address)


def test_rest_is_asked_where_grpc_cannot_be_reached(
    server: ModelServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with bridge(server.address) as rest:
        assert "sku-5" in asked(capsys, tmp_path, "--target", "127.0.0.1:1", "--rest-target", rest.address)


def test_only_what_passes_the_filter_is_printed(
    server: ModelServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Shoes are sku-1 to sku-3; odd numbers are of acme; sku-n costs 10 · n.
    def found(*arguments: str) -> list[str]:
        table = asked(capsys, tmp_path, "--target", server.address, *arguments).partition("version 1:")[2]
        return re.findall(r"sku-\d", table)

    assert found("--category", "shoes", "--category", "hats", "--brand", "acme") == ["sku-5", "sku-1"]
    assert found("--price-min", "10", "--price-max", "20") == ["sku-2", "sku-1"]
    assert found("--allow", "sku-4", "--allow", "sku-3") == ["sku-3", "sku-4"]
    # The last product is unavailable.
    assert found("--price-min", "55") == []
    assert found("--price-min", "55", "--include-unavailable") == ["sku-6"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--price-min", "20", "--price-max", "10"], "price_min must not exceed price_max (10.0), received 20.0"),
        (["--category", ""], "categories must hold no empty name, received one at position 0"),
        (["--brand", "a", "--brand", "b", "--brand", "c"], "brands must hold at most 2 names"),
        (["--brand", "acme", "--similar-to", "sku-1"], "a filter restricts recommendations, not products like sku-1"),
    ],
    ids=["prices", "empty", "too many", "beside a product"],
)
def test_a_filter_that_cannot_be_is_told_in_a_sentence(
    server: ModelServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert main(["recommend", "--target", server.address, "--run", str(tmp_path), "-k", "2", *arguments]) == 1
    assert sentence in capsys.readouterr().err


def test_certificates_are_used(server: ModelServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authority = Authority(tmp_path)
    theirs, ours = authority.sign("server"), authority.sign("client")
    credentials = grpc.ssl_server_credentials(
        [(theirs.key.read_bytes(), theirs.certificate.read_bytes())],
        authority.certificate.read_bytes(),
        require_client_auth=True,
    )
    with proxy(server.address, credentials) as secured:
        files = ["--tls-root-certificate", str(authority.certificate)]
        files += ["--tls-certificate", str(ours.certificate), "--tls-key", str(ours.key)]
        assert "sku-5" in asked(capsys, tmp_path, "--target", secured.address, *files)


def test_a_label_that_no_version_carries_is_named(
    server: ModelServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--target", server.address, "--version-label", "canary", "--run", str(tmp_path)]
    assert main(["recommend", *arguments]) == 1
    assert "Unrecognized servable version label: canary" in capsys.readouterr().err
