"""TLS of the gRPC port: TensorFlow Serving's SSLConfig."""

import grpc

from protos.server_config_pb2 import SSLConfig
from serving.errors import ServingError


def server_credentials(config: SSLConfig | None) -> grpc.ServerCredentials | None:
    """The server's side of TLS; None where there is no TLS.

    Raises:
        ServingError: key or certificate is missing, clients are to be verified without an authority to do it by, or
            a field doesn't hold PEM.
    """
    if config is None:
        return None
    needed = ["server_key", "server_cert"] + ["custom_ca"] * config.client_verify
    for field in needed:
        text = getattr(config, field)
        if "-----BEGIN " not in text:
            found = f"text of {len(text)} characters" if text else "nothing"
            raise ServingError(
                f"SSLConfig: {field} must hold PEM (-----BEGIN …), found {found}. "
                f"Write the file's content there, with \\n for the ends of lines, not its path."
            )
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )
