"""Requests to simulators, for the tests of simulators."""

import json
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any, NamedTuple

from rotation.simulators import RunningSimulator

Start = Callable[[str], RunningSimulator]


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def call(
    sim: RunningSimulator,
    method: str,
    path: str,
    body: bytes | str | dict[str, Any] | None = None,
    **headers: str,
) -> Reply:
    """One request; underscores in header names become dashes."""
    connection = HTTPConnection(sim.host_port, timeout=60)
    try:
        content = json.dumps(body).encode() if isinstance(body, dict) else body
        kind = {"Content-Type": "application/json"} if isinstance(body, dict) else {}
        fields = {**kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
        connection.request(method, path, content, fields)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, found, response.read())
    finally:
        connection.close()


def new_key(sim: RunningSimulator, label: str = "ours") -> str:
    return sim.control.create_key(label).value.expose()


# For each provider: method, path, header and form of a request that a good key gets a 400 or 404 for.
OPEN = {
    "backgrounderase": ("POST", "/v2", "x_api_key", "{}"),
    "removit": ("GET", "/api/v1/status?job_id=0", "X_API_Key", "{}"),
    "removebgvideo": ("GET", "/v1/jobs/0", "X_Api_Key", "{}"),
    "backgroundcut": ("GET", "/v3/files/0", "Authorization", "Token {}"),
}


def use(sim: RunningSimulator, key: str) -> Reply:
    """A request that a good key gets a 400 or 404 for."""
    method, path, header, form = OPEN[sim.control.slug]
    return call(sim, method, path, **{header: form.format(key)})
