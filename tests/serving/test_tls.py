"""TLS on the gRPC port, with keys made for the test."""

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.protobuf import text_format
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from protos.server_config_pb2 import SSLConfig
from serving.errors import ServingError
from serving.model_config import model_configs_for
from serving.options import ServerOptions, read_ssl_config
from serving.server import ModelServer
from tests.serving.models import publish

LOOPBACK = x509.IPAddress(ip_address("127.0.0.1"))


@dataclass
class Identity:
    """A key and a certificate, in PEM."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def key_pem(self) -> bytes:
        """PKCS 8."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def certificate_pem(self) -> bytes:
        """X.509."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def identity(name: str, signed_by: Identity | None = None, host: x509.GeneralName = LOOPBACK) -> Identity:
    """A new one, for a host; an authority where nobody signs it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signed_by.certificate.subject if signed_by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=signed_by is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([host]), critical=False)
        .sign(signed_by.key if signed_by else key, hashes.SHA256())
    )
    return Identity(key, certificate)


@pytest.fixture(scope="module")
def authority() -> Identity:
    return identity("authority")


@pytest.fixture
def health_of(tmp_path: Path, authority: Identity, scaler: Path) -> Callable[..., str]:
    """Starts a server from an SSLConfig file, and asks for its health with these credentials."""

    def ask(client_verify: bool, credentials: grpc.ChannelCredentials | None) -> str:
        server_identity = identity("server", authority)
        config = SSLConfig(
            server_key=server_identity.key_pem.decode(),
            server_cert=server_identity.certificate_pem.decode(),
            custom_ca=authority.certificate_pem.decode(),
            client_verify=client_verify,
        )
        path = tmp_path / "ssl.config"
        path.write_text(text_format.MessageToString(config))
        publish(scaler, tmp_path / "models" / "scaler", 1)
        options = ServerOptions(ssl_config=read_ssl_config(path))
        with ModelServer(model_configs_for(tmp_path / "models"), 0, options=options) as server:
            channel = (
                grpc.secure_channel(server.address, credentials)
                if credentials is not None
                else grpc.insecure_channel(server.address)
            )
            with channel:
                response = HealthStub(channel).Check(HealthCheckRequest(), timeout=10)
                return HealthCheckResponse.ServingStatus.Name(response.status)

    return ask


def test_client_that_trusts_the_authority_is_answered(health_of: Callable[..., str], authority: Identity) -> None:
    assert health_of(False, grpc.ssl_channel_credentials(authority.certificate_pem)) == "SERVING"


@pytest.mark.parametrize("trusted", [None, identity("somebody else")], ids=["no TLS", "another authority"])
def test_client_without_trust_gets_no_connection(health_of: Callable[..., str], trusted: Identity | None) -> None:
    credentials = grpc.ssl_channel_credentials(trusted.certificate_pem) if trusted else None
    with pytest.raises(grpc.RpcError) as caught:
        health_of(False, credentials)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_client_must_show_a_certificate_where_that_is_asked(health_of: Callable[..., str], authority: Identity) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        health_of(True, grpc.ssl_channel_credentials(authority.certificate_pem))
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_client_with_a_certificate_of_the_authority_is_answered(
    health_of: Callable[..., str], authority: Identity
) -> None:
    client = identity("client", authority)
    credentials = grpc.ssl_channel_credentials(
        authority.certificate_pem, private_key=client.key_pem, certificate_chain=client.certificate_pem
    )
    assert health_of(True, credentials) == "SERVING"


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (SSLConfig(server_cert="-----BEGIN CERTIFICATE-----"), "server_key must hold PEM .*found nothing"),
        (
            SSLConfig(server_key="-----BEGIN PRIVATE KEY-----", server_cert="/etc/server.crt"),
            "server_cert must hold PEM .*found text of 15 characters",
        ),
        (
            SSLConfig(server_key="-----BEGIN ", server_cert="-----BEGIN ", client_verify=True),
            "custom_ca must hold PEM .*found nothing",
        ),
        (
            SSLConfig(server_key="-----BEGIN PRIVATE KEY-----", server_cert="-----BEGIN CERTIFICATE-----"),
            "server_key and server_cert are no pair of a key and its certificate",
        ),
    ],
)
def test_config_that_makes_no_tls_is_refused(config: SSLConfig, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "scaler" / "1").mkdir(parents=True)
    with pytest.raises(ServingError, match=sentence):
        ModelServer(model_configs_for(tmp_path), 0, options=ServerOptions(ssl_config=config))
