"""A pinned address still has to prove the name that was asked for."""

import datetime as dt
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from rotation import egress
from rotation.egress import EgressConnectError, request

pytestmark = pytest.mark.once


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[tuple[int, Path, list[str | None]]]:
    """An https server for provider.example.com: its port, its certificate, and the names it was asked for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "provider.example.com")])
    start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=36_500))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("provider.example.com")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file, key_file)
    names: list[str | None] = []
    context.sni_callback = lambda sock, server_name, ctx: names.append(server_name)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(connection, server_side=True) as secured:
                    secured.recv(65_536)
                    secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecure")
            except OSError:
                connection.close()  # the client did not like the certificate

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1], cert_file, names
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(60)


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Trust one more certificate, the way an operator would."""

    def trust(certificate: Path) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        egress._tls.cache_clear()

    yield trust
    egress._tls.cache_clear()


def secure_get(port: int, host: str) -> egress.EgressResponse:
    return request(
        "GET",
        f"https://{host}:{port}/",
        headers={},
        allow_hosts=frozenset({f"{host}:{port}"}),
        resolver=lambda name, number: ["127.0.0.1"],
    )


def test_a_certificate_nobody_vouches_for_stops_the_call_before_anything_is_sent(
    tls_server: tuple[int, Path, list[str | None]],
) -> None:
    with pytest.raises(EgressConnectError) as caught:
        secure_get(tls_server[0], "provider.example.com")
    assert caught.value.code == "tls"


def test_a_pinned_address_is_asked_for_by_name_and_must_prove_that_name(
    tls_server: tuple[int, Path, list[str | None]], trusting: Callable[[Path], None]
) -> None:
    port, certificate, names = tls_server
    trusting(certificate)
    assert secure_get(port, "provider.example.com").body == b"secure"
    with pytest.raises(EgressConnectError) as caught:
        secure_get(port, "other.example.com")
    assert caught.value.code == "tls"
    assert names == ["provider.example.com", "other.example.com"]


def test_a_handshake_that_never_ends_meets_the_deadline(raw_server: Any) -> None:
    server = raw_server(lambda connection, stopping: stopping.wait(60))
    began = time.monotonic()
    with pytest.raises(EgressConnectError) as caught:
        request(
            "GET",
            f"https://{server.host_port}/",
            headers={},
            allow_hosts=frozenset({server.host_port}),
            timeout=0.3,
        )
    assert caught.value.code == "connect_timeout"
    assert time.monotonic() - began < 30
