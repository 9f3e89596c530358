"""Protects HTTPS from files, which are renewed while the service runs, and the headers that protect answers."""

import ssl
import subprocess
import threading
from pathlib import Path

import httpx
import pytest

from anykey.index.faiss_index import FaissIndex
from anykey.service.app import create_app
from anykey.service.errors import StartupError
from anykey.service.server import listen, web_server
from tests.fakes import FakeEncoder
from tests.serving import WAIT_S, make_settings, port_of, until


def make_certificate(folder: Path, name: str) -> None:
    """Writes a certificate for 127.0.0.1 and its key into `cert.pem` and `key.pem`."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem"), "-subj", f"/CN={name}",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip


def shown_certificate(port: int) -> str:
    """The certificate that a new connection is shown."""
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=WAIT_S)


def test_renewed_files_are_taken_and_damaged_ones_are_not(
    tmp_path: Path, wire_encoder: FakeEncoder, wire_index: FaissIndex
) -> None:
    make_certificate(tmp_path, "one")
    settings = make_settings(tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem")
    app = create_app(settings, encoder=wire_encoder, index=wire_index)
    with listen("127.0.0.1", 0) as listener:
        server = web_server(app, settings, [listener])
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            port, first = port_of(listener), (tmp_path / "cert.pem").read_text()
            trusted = ssl.create_default_context(cadata=first)
            with httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=trusted, trust_env=False) as client:
                until(lambda: client.get("/readyz").status_code == 200, "ready")
                answer = client.post("/search", json={"text": "a"})
                assert answer.status_code == 200
                assert answer.headers["strict-transport-security"] == "max-age=31536000"
                (tmp_path / "key.pem").write_text("no key")
                assert client.get("/livez").status_code == 200
                assert shown_certificate(port) == first
                make_certificate(tmp_path, "other")
                second = (tmp_path / "cert.pem").read_text()
                until(lambda: shown_certificate(port) == second, "the renewed certificate is shown")
                assert client.get("/livez").status_code == 200, "connections of before go on"
        finally:
            server.should_exit = True
            thread.join(WAIT_S)


def test_files_that_cannot_be_used_end_the_start(tmp_path: Path) -> None:
    make_certificate(tmp_path, "one")
    (tmp_path / "other.pem").write_text("no key")
    for key in (tmp_path / "other.pem", tmp_path / "absent.pem"):
        settings = make_settings(tls_cert=tmp_path / "cert.pem", tls_key=key)
        with pytest.raises(StartupError, match="cannot be used"):
            web_server(create_app(settings), settings, [])
    with pytest.raises(ValueError, match="tls_cert and tls_key together"):
        make_settings(tls_cert=tmp_path / "cert.pem")


def test_answers_tell_browsers_and_caches_what_they_may(client: httpx.Client) -> None:
    kept_by_nobody = [
        client.post("/search", json={"text": "a"}),
        client.post("/search", content=b"{", headers={"content-type": "application/json"}),
        client.get("/keys"),
        client.get("/nothing"),
    ]
    asked_about = [client.get("/keys/red"), client.get("/", headers={"accept": "text/html"})]
    for answer in (*kept_by_nobody, *asked_about, client.get("/keys/red/image")):
        for name, value in (
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "SAMEORIGIN"),
            ("referrer-policy", "same-origin"),
        ):
            assert answer.headers.get_list(name) == [value], answer.url
        assert "strict-transport-security" not in answer.headers
    assert all(answer.headers["cache-control"] == "no-store" for answer in kept_by_nobody)
    assert all("no-cache" in answer.headers["cache-control"] for answer in asked_about)
