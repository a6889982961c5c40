"""How a client reaches a server: which model, how long it waits, how often it tries, what it trusts."""

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from protos.predict_pb2 import ModelSpec

_PEM = b"-----BEGIN"


@dataclass(frozen=True)
class Retries:
    """Exponential back-off with full jitter: before try n + 1 a random pause of up to initial · multiplierⁿ⁻¹ seconds.

    Source: https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/
    """

    # Tries in all; 1 = no second one.
    attempts: int = 4
    # Seconds.
    initial_backoff: float = 0.05
    max_backoff: float = 1.0
    multiplier: float = 2.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, received {self.attempts}.")
        for name in ("initial_backoff", "max_backoff"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0 seconds, received {getattr(self, name)}.")
        if self.multiplier < 1:
            raise ValueError(f"multiplier must be at least 1, received {self.multiplier}.")

    def pause(self, tried: int) -> float:
        """Seconds to wait after `tried` failed tries."""
        longest = min(self.initial_backoff * self.multiplier ** (tried - 1), self.max_backoff)
        return random.uniform(0.0, longest)


DEFAULT_RETRIES = Retries()


@dataclass(frozen=True)
class Tls:
    """Encryption, and who trusts whom; each value is a path or PEM text.

    Raises:
        ValueError: a file that can't be read or holds no PEM, or a certificate without its key.
    """

    # The authority that signed the server's certificate; None = those that the system trusts.
    root_certificate: str | bytes | Path | None = None
    # The client's own, where the server asks for one (`client_verify`).
    certificate: str | bytes | Path | None = None
    key: str | bytes | Path | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            given, missing = ("certificate", "key") if self.key is None else ("key", "certificate")
            raise ValueError(f"a client's certificate and key go together, received {given} without {missing}.")
        for name in ("root_certificate", "certificate", "key"):
            self.pem(name)

    def pem(self, name: Literal["root_certificate", "certificate", "key"]) -> bytes | None:
        """The PEM text that a value holds or points to."""
        value: str | bytes | Path | None = getattr(self, name)
        if value is None:
            return None
        text = value.encode() if isinstance(value, str) else value
        if isinstance(text, bytes) and _PEM in text:
            return text
        path = Path(value.decode() if isinstance(value, bytes) else value)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ValueError(f"{name} must be a PEM file or PEM text: {path}: {error.strerror}.") from None
        if _PEM not in content:
            raise ValueError(f"{name} must be a PEM file or PEM text: {path} holds no {_PEM.decode()}.")
        return content


@dataclass(frozen=True)
class RestAddress:
    """Where REST is asked."""

    encrypted: bool
    host: str
    port: int
    # What stands before `/v1`, without a slash at its end.
    path: str = ""

    @classmethod
    def parse(cls, text: str, encrypted: bool) -> "RestAddress":
        """The address in HOST:PORT, for which `encrypted` counts, or in a URL, which says it itself.

        Raises:
            ValueError: it is neither.
        """
        given = "://" in text
        scheme = "https" if encrypted else "http"
        try:
            parts = urlsplit(text if given else f"{scheme}://{text}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host or parts.scheme not in ("http", "https") or (port is None and not given):
            raise ValueError(f"rest_target must be HOST:PORT or an http(s) URL, received {text!r}.")
        secure = parts.scheme == "https"
        return cls(secure, host, port or (443 if secure else 80), parts.path.rstrip("/"))


@dataclass(frozen=True)
class ClientOptions:
    """Everything a client is told when it is made; `RecommenderClient` says what each means."""

    target: str | None
    rest_target: str | None
    timeout: float
    model: str
    version: int | None
    version_label: str | None
    tls: Tls | None
    retries: Retries
    max_message_bytes: int

    def __post_init__(self) -> None:
        if self.target is None and self.rest_target is None:
            raise ValueError("a client needs target (gRPC), rest_target (REST) or both, received neither.")
        if self.version is not None and self.version_label is not None:
            raise ValueError(
                f"a request names a version or a label, received version {self.version} and "
                f"version_label {self.version_label!r}."
            )
        if self.timeout <= 0:
            raise ValueError(f"timeout must be above 0 seconds, received {self.timeout}.")
        if self.rest_target is not None:
            RestAddress.parse(self.rest_target, self.tls is not None)

    @property
    def address(self) -> str:
        """Where requests go first."""
        return self.target or str(self.rest_target)

    def spec(self) -> ModelSpec:
        """The model that is asked."""
        spec = ModelSpec(name=self.model)
        if self.version is not None:
            spec.version.value = self.version
        elif self.version_label is not None:
            spec.version_label = self.version_label
        return spec
