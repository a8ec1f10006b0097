"""Removit: upload makes a job, status is asked until it is done, and every call needs the key."""

import time
from collections.abc import Callable
from typing import ClassVar

from keyvault.crypto.secret import Secret
from rotation.simulators.base import Denied, Simulator, header_key
from rotation.simulators.jobs import Jobs
from rotation.simulators.truth import Key
from rotation.simulators.wire import Answer, Request, Response, json_response


class Removit(Simulator):
    """The one 401 body that is documented says "missing"; it is given for an invalid key too."""

    slug: ClassVar[str] = "removit"
    key_prefix: ClassVar[str] = "rmv_"

    def __init__(self, *, admin_secret: Secret | None = None, clock: Callable[[], float] = time.time) -> None:
        super().__init__(admin_secret=admin_secret, clock=clock)
        self.jobs = Jobs()

    def presented(self, request: Request) -> str | None:
        """X-API-Key, or Authorization: Bearer."""
        return header_key(request, bearer=True)

    def unauthorized(self, denied: Denied, request_id: str) -> Response:
        """The flat error, the same for both causes."""
        return self.error(401, "unauthorized", "API key missing", request_id)

    def error(self, status: int, code: str, message: str, request_id: str) -> Response:
        """`{"error", "message"}`; the document knows no request id."""
        return json_response(status, {"error": code, "message": message})

    def handle(self, request: Request, key: Key | None, request_id: str) -> Answer:
        """Upload and status."""
        if key is None:
            return self.unauthorized(Denied("missing"), request_id)
        route = (request.method, request.path)
        if route == ("POST", "/api/v1/upload"):
            return self._upload(request, key, request_id)
        if route == ("GET", "/api/v1/status"):
            return self._status(request, key, request_id)
        return self.error(404, "not_found", "Not found", request_id)

    def _upload(self, request: Request, key: Key, request_id: str) -> Response:
        kind = request.headers.get("content-type", "")
        data = request.json() if kind.startswith("application/json") else None
        remote = data is not None and isinstance(data.get("file_url"), str)
        local = kind.startswith("multipart/form-data") and b"filename=" in request.body
        if not remote and not local:
            return self.error(400, "bad_request", "A file or a file_url in JSON is needed", request_id)
        return json_response(202, {"job_id": self.jobs.open(key).id, "status": "processing"})

    def _status(self, request: Request, key: Key, request_id: str) -> Response:
        job_id = request.query.get("job_id", "")
        state = self.jobs.poll(job_id, key)
        if state is None:
            return self.error(404, "not_found", "Job not found", request_id)
        return json_response(200, {"job_id": job_id, "status": state})
