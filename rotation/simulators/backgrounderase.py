"""BackgroundErase: one synchronous endpoint; keys are made, copied and revoked on the account page only."""

import struct
import zlib
from typing import ClassVar

from rotation.simulators.base import Denied, Simulator, header_key
from rotation.simulators.truth import Key
from rotation.simulators.wire import Answer, Request, Response, json_response

_MESSAGES = {"missing_api_key": "Missing API key.", "invalid_api_key": "Invalid or revoked API key."}


class BackgroundErase(Simulator):
    """`POST /v2` with `image_file` gives a PNG. Without a plan every key is invalid and none can be made."""

    slug: ClassVar[str] = "backgrounderase"
    key_prefix: ClassVar[str] = "be_"
    has_management: ClassVar[bool] = False
    can_copy_again: ClassVar[bool] = True
    sends_request_id: ClassVar[bool] = True

    def presented(self, request: Request) -> str | None:
        """x-api-key, or Authorization: Bearer."""
        return header_key(request, bearer=True)

    def unauthorized(self, denied: Denied, request_id: str) -> Response:
        """The nested error; revoked and unknown keys look the same."""
        code = f"{denied.code}_api_key"
        return self.error(401, code, _MESSAGES[code], request_id)

    def no_plan(self, request_id: str) -> Response:
        """The document knows only 401 for an account without an active plan."""
        return self.unauthorized(Denied("invalid"), request_id)

    def error(self, status: int, code: str, message: str, request_id: str) -> Response:
        """`{"error": {"code", "message", "status", "request_id"}}`."""
        error = {"code": code, "message": message, "status": status, "request_id": request_id}
        return json_response(status, {"error": error})

    def handle(self, request: Request, key: Key | None, request_id: str) -> Answer:
        """Only here is the image looked at."""
        if request.path.rstrip("/") != "/v2":
            return self.error(404, "not_found", "Not found.", request_id)
        if request.method != "POST":
            return self.error(405, "method_not_allowed", "Use POST.", request_id)
        if b'name="image_file"' not in request.body:
            return self.error(400, "missing_image", "No image_file.", request_id)
        return Response(200, _PNG, "image/png")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# One transparent pixel.
_PNG = (
    b"\x89PNG\r\n\x1a\n"
    + _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 6, 0, 0, 0))
    + _chunk(b"IDAT", zlib.compress(b"\0" * 5))
    + _chunk(b"IEND", b"")
)
