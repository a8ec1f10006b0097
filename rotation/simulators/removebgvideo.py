"""RemoveBGVideo: /v1 asks for a key and limits each key's rate; the old /api answers anyone."""

import time
from collections.abc import Callable
from typing import ClassVar

from keyvault.crypto.secret import Secret
from rotation.simulators.base import Denied, Simulator, header_key
from rotation.simulators.jobs import Jobs
from rotation.simulators.truth import Key
from rotation.simulators.wire import Answer, Request, Response, json_response

_MESSAGES = {"missing_api_key": "X-Api-Key header missing", "invalid_api_key": "Key not recognized"}


class RemoveBGVideo(Simulator):
    """A job is 404 for every key but the one that made it."""

    slug: ClassVar[str] = "removebgvideo"
    key_prefix: ClassVar[str] = "rbv_"
    sends_request_id: ClassVar[bool] = True

    def __init__(self, *, admin_secret: Secret | None = None, clock: Callable[[], float] = time.time) -> None:
        super().__init__(admin_secret=admin_secret, clock=clock)
        self.jobs = Jobs()

    def authenticate(self, request: Request) -> Key | Denied | None:
        """The legacy routes need no key, and do not look at one."""
        return None if request.path.startswith("/api/") else super().authenticate(request)

    def presented(self, request: Request) -> str | None:
        """X-Api-Key, and nothing else."""
        return header_key(request, bearer=False)

    def unauthorized(self, denied: Denied, request_id: str) -> Response:
        """Two codes."""
        code = f"{denied.code}_api_key"
        return self.error(401, code, _MESSAGES[code], request_id)

    def error(self, status: int, code: str, message: str, request_id: str) -> Response:
        """The document gives codes but no body; a flat one is taken."""
        return json_response(status, {"error": code, "message": message, "request_id": request_id})

    def handle(self, request: Request, key: Key | None, request_id: str) -> Answer:
        """Jobs, and the legacy routes."""
        if key is None:
            return json_response(200, {"status": "ok", "request_id": request_id})
        if (request.method, request.path) == ("POST", "/v1/jobs"):
            job_id = self.jobs.open(key).id
            return json_response(201, {"job_id": job_id, "status": "processing", "request_id": request_id})
        prefix = "/v1/jobs/"
        if request.method == "GET" and request.path.startswith(prefix):
            job_id = request.path.removeprefix(prefix)
            state = self.jobs.poll(job_id, key)
            if state is None:
                return self.error(404, "Job not found", "Job not found", request_id)
            return json_response(200, {"job_id": job_id, "status": state, "request_id": request_id})
        return self.error(404, "not_found", "Not found", request_id)
