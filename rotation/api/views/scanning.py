"""What secret scanners report: texts that they found in the open, signed by them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from keyvault import clock
from keyvault.api.authentication import CHALLENGE, UserCredential, refuse_credential_in_url
from keyvault.api.base import REFUSALS, StrictView, read_query
from keyvault.api.serializers import StrictCharField
from keyvault.crypto.scanners import is_signed
from keyvault.crypto.secret import Secret
from keyvault.exceptions import invalid, not_found
from rotation.services import scanning
from rotation.services.scanning import Found

MOST: Final = 500  # findings in one report
_NAME: Final = "HTTP_GITHUB_PUBLIC_KEY_IDENTIFIER"
_SIGNATURE: Final = "HTTP_GITHUB_PUBLIC_KEY_SIGNATURE"


@dataclass(frozen=True)
class Scanner:
    """Whose signature the request carries: the name of the key."""

    name: str


class ScannerAuthentication(BaseAuthentication):
    """The body is signed by a key that this installation knows. Where it knows none, nothing is here: 404."""

    def authenticate(self, request: Request) -> tuple[Scanner, UserCredential] | None:
        if not settings.KEYTURN_SCANNING_KEYS:
            raise not_found()
        refuse_credential_in_url(request)
        name, signature = request.META.get(_NAME, ""), request.META.get(_SIGNATURE, "")
        if not name or not signature:
            return None
        if not is_signed(settings.KEYTURN_SCANNING_KEYS, name, signature, request.body):
            raise AuthenticationFailed("The body is not signed by a scanner that is known here.")
        return Scanner(name), UserCredential(subject=f"scanner:{name}")

    def authenticate_header(self, request: Request) -> str:
        return CHALLENGE


class ScannerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = ScannerAuthentication
    name = "scanner"

    def get_security_definition(self, auto_schema: Any) -> Any:
        return {
            "type": "apiKey",
            "in": "header",
            "name": "Github-Public-Key-Signature",
            "description": "ECDSA P-256 with SHA-256 over the body, base64 of DER;"
            " `Github-Public-Key-Identifier` names the key.",
        }


class IsScanner(BasePermission):
    def has_permission(self, request: Request, view: APIView) -> bool:
        return isinstance(request.user, Scanner)


class FoundSerializer(serializers.Serializer[Any]):
    """Members that scanners add in the future are passed over."""

    token = StrictCharField(max_length=4096)
    type = StrictCharField(max_length=200)
    url = StrictCharField(max_length=2048, required=False, allow_blank=True, allow_null=True)


_REPORT: Final = {
    "type": "array",
    "maxItems": MOST,
    "items": {
        "type": "object",
        "required": ["token", "type"],
        "properties": {
            "token": {"type": "string", "minLength": 1, "maxLength": 4096},
            "type": {"type": "string", "minLength": 1, "maxLength": 200},
            "url": {"type": ["string", "null"], "maxLength": 2048},
        },
    },
}

_VERDICTS: Final = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["token_hash", "token_type", "label"],
        "additionalProperties": False,
        "properties": {
            "token_hash": {"type": "string", "description": "SHA-256 of the token, in hexadecimal."},
            "token_type": {"type": "string"},
            "label": {"enum": ["true_positive", "false_positive"]},
        },
    },
}


class ScanningView(StrictView):
    authentication_classes = [ScannerAuthentication]
    permission_classes = [IsScanner]
    http_method_names = ["post"]

    @extend_schema(
        summary="Report what a secret scanner found",
        description="As in GitHub's secret scanning partner programme. Tokens of ours are revoked (where the"
        " installation is set so); a version that holds what was found is marked as compromised and takes the"
        " way of every reported leak. The answer has a verdict for each text, in the order of the report. 404"
        " where no scanner is known.",
        request={"application/json": _REPORT},
        responses={200: OpenApiResponse(_VERDICTS, "OK")},
        tags=["emergencies"],
        extensions={REFUSALS: [404]},
    )
    def post(self, request: Request) -> Response:
        read_query(request.query_params, None)
        verdicts = scanning.report(request.user.name, _found(request.data), now=clock.now())  # type: ignore[union-attr]
        shown = [
            {
                "token_hash": verdict.hash,
                "token_type": verdict.kind,
                "label": "true_positive" if verdict.ours else "false_positive",
            }
            for verdict in verdicts
        ]
        return Response(shown)


def _found(data: Any) -> list[Found]:
    if not isinstance(data, list) or len(data) > MOST:
        raise invalid("body", f"Send a JSON array of at most {MOST} findings.")
    reader = FoundSerializer(data=data, many=True)
    reader.is_valid(raise_exception=True)
    return [Found(Secret(one["token"]), one["type"], one.get("url") or "") for one in reader.validated_data]
