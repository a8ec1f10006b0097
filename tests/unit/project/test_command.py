"""The command ``keyturn`` and the programs it starts, as a shell sees them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner

from keyvault.project.cli import main

pytestmark = pytest.mark.once


@pytest.fixture
def keyturn_url() -> Iterator[str]:
    """A server that hands out one key, named after what was asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            service, environment = self.path.split("/")[3:5]
            body = json.dumps({"key": f"key of {service} {environment}", "version": 1}).encode()
            if "format=raw" in self.path:
                body = f"key of {service} {environment}".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """A test's output is not a server log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def keyturn(*arguments: str, url: str = "", token: str = "t") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KEYTURN_URL": url, "KEYTURN_TOKEN": token}
    return subprocess.run(
        [sys.executable, "-m", "keyvault.project.cli", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_get_prints_the_key_and_nothing_else(keyturn_url: str) -> None:
    done = keyturn("get", "cut-out", "prod", url=keyturn_url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "key of cut-out prod\n", "")


def test_run_becomes_the_program_with_its_exit_code_and_keys(keyturn_url: str) -> None:
    shown = "e['A'], e['B'], 'KEYTURN_TOKEN' in e, sys.argv[1:]"
    program = f"import os, sys; e = os.environ; print({shown}); sys.exit(7)"
    done = keyturn(
        "run",
        "one:dev:A",
        "two:prod:B",
        "--",
        sys.executable,
        "-c",
        program,
        "--flag",
        "x:y:z",
        url=keyturn_url,
    )
    assert done.returncode == 7, done.stderr
    assert done.stdout == "key of one dev key of two prod False ['--flag', 'x:y:z']\n"


def test_run_without_a_command_or_a_key_is_wrong_usage(keyturn_url: str) -> None:
    assert keyturn("run", "one:dev:A", url=keyturn_url).returncode == 2
    assert keyturn("run", "--", "true", url=keyturn_url).returncode == 2


def test_a_missing_token_is_said_in_one_line() -> None:
    done = keyturn("get", "a", "dev", url="http://127.0.0.1:1", token="")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "keyturn: KEYTURN_TOKEN is not set.\n"


def test_clients_import_no_django() -> None:
    program = (
        "import sys; import keyvault.client, keyvault.project.cli, keyvault.project.supervisor;"
        "import keyvault.project.evidence_command;"
        "print([n for n in sys.modules if n.split('.')[0] in ('django', 'celery', 'rest_framework')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_help_lists_our_commands() -> None:
    shown = CliRunner().invoke(main, ["--help"])
    assert shown.exit_code == 0
    for name in ("serve", "demo", "token", "get", "run", "watch", "evidence"):
        assert f"\n  {name} " in shown.output


def test_commands_of_manage_py_work_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "keyvault.project.cli", "check", "--tag", "security"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "System check identified no issues" in done.stdout
