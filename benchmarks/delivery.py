"""Deliveries a second against a server started for it: ``make bench``.

One process of ours is the load: N threads with a kept-alive connection each, asking for one key. It shares
the machine with the server, so the figures are low bounds and only comparable with others from the same run.
There is no peer beside it yet; a ratio against one says more than any absolute figure here.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READY_WITHIN = 60.0


@dataclass(frozen=True)
class Result:
    connections: int
    per_second: float
    p50_ms: float
    p99_ms: float
    failed: int


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def call(
    base: str, method: str, path: str, token: str, body: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{base}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"X-API-Key": token, "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            answer: dict[str, Any] = json.load(response)
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{method} {path}: {error.read().decode()}") from error
    return answer


def furnish(base: str, user_token: str) -> str:
    """One service with a key in dev and one consumer that may read it. Returns the consumer's token."""
    call(base, "POST", "/v1/teams/", user_token, {"slug": "bench", "name": "Bench"})
    service = {"slug": "bench", "team": "bench", "provider": "internal", "description": ""}
    call(base, "POST", "/v1/services/", user_token, service)
    call(base, "POST", "/v1/services/bench/keys/", user_token, {"environment": "dev"})
    call(base, "POST", "/v1/consumers/", user_token, {"slug": "bench", "team": "bench"})
    grant = {"consumer": "bench", "service": "bench", "environment": "dev", "verbs": ["read"]}
    call(base, "POST", "/v1/grants/", user_token, grant)
    asked = {"environment": "dev", "rate_limit": "1000000/min"}
    return str(call(base, "POST", "/v1/consumers/bench/tokens/", user_token, asked)["token"])


def wait_until_delivered(base: str, token: str) -> None:
    """Keyturn issues the key itself, through its worker."""
    request = urllib.request.Request(f"{base}/v1/keys/bench/dev/", headers={"X-API-Key": token})
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except urllib.error.HTTPError as error:
            error.close()
            threading.Event().wait(0.2)
    raise SystemExit("The key was not issued.")


def measure(port: int, token: str, connections: int, seconds: float) -> Result:
    stop = threading.Event()
    times: list[list[float]] = [[] for _ in range(connections)]
    failed = [0] * connections

    def load(mine: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        headers = {"X-API-Key": token}
        while not stop.is_set():
            started = time.perf_counter()
            connection.request("GET", f"/v1/keys/bench/dev/?instance=load-{mine}", headers=headers)
            response = connection.getresponse()
            response.read()
            times[mine].append(time.perf_counter() - started)
            failed[mine] += response.status != 200
        connection.close()

    threads = [threading.Thread(target=load, args=(mine,)) for mine in range(connections)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    stop.wait(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - started
    every = sorted(took for mine in times for took in mine)
    return Result(
        connections,
        per_second=len(every) / elapsed,
        p50_ms=statistics.median(every) * 1000,
        p99_ms=every[int(len(every) * 0.99)] * 1000,
        failed=sum(failed),
    )


def wait_until_ready(base: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{base}/livez", timeout=1):
                return
        except OSError:
            threading.Event().wait(0.1)
    raise SystemExit("The server did not start.")


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Deliveries a second, each recorded durably before its answer."
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="for each number of connections")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--workers", type=int, default=1, help="web processes")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    keyturn = [sys.executable, "-m", "keyvault.project.cli"]
    with tempfile.TemporaryDirectory(prefix="keyturn-bench-") as folder:
        environment = {
            **os.environ,
            "KEYTURN_DATA": str(Path(folder) / "data"),
            "KEYTURN_LOG_LEVEL": "WARNING",
        }
        environment.update(KEYTURN_ENV_FILE=os.devnull, KEYTURN_URL=base)
        command = [*keyturn, "serve", "--port", str(port), "--workers", str(chosen.workers)]
        server = subprocess.Popen(command, env=environment, stdout=sys.stderr)
        try:
            wait_until_ready(base, server)
            made = subprocess.run(
                [*keyturn, "token", "bench", "--admin"],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            token = furnish(base, made.stdout.strip())
            wait_until_delivered(base, token)
            measure(port, token, 1, 0.5)  # connections, prepared statements and caches
            results = [measure(port, token, count, chosen.seconds) for count in chosen.connections]
        finally:
            server.terminate()
            server.wait()
    report(results, database=os.environ.get("DATABASE_URL", "sqlite").partition(":")[0], as_json=chosen.json)
    return 1 if any(result.failed for result in results) else 0


def report(results: list[Result], *, database: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"database": database, "delivery": [vars(result) for result in results]}))
        return
    print(f"deliveries, each recorded before its answer; {database}; load on this machine too; no peer yet")
    print(f"{'connections':>12}{'per second':>12}{'p50 ms':>10}{'p99 ms':>10}{'failed':>8}")
    for result in results:
        print(
            f"{result.connections:>12}{result.per_second:>12.0f}{result.p50_ms:>10.1f}"
            f"{result.p99_ms:>10.1f}{result.failed:>8}"
        )


if __name__ == "__main__":
    raise SystemExit(main())
