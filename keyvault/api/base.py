"""What every view of the management API is: who may call it, what it reads, how it is documented."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from http import HTTPStatus
from typing import Any, ClassVar, Final, TypeVar

from django.db.models import Model, QuerySet
from django.http.request import QueryDict
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from keyvault import clock
from keyvault.actors import Actor, actor_for
from keyvault.api.authentication import UserTokenAuthentication
from keyvault.api.parsers import StrictJSONParser
from keyvault.api.permissions import IsPerson
from keyvault.api.serializers import StrictSerializer, public_name
from keyvault.api.throttling import UserTokenThrottle
from keyvault.exceptions import invalid, not_found
from keyvault.models import User

Row = TypeVar("Row", bound=Model)
Method = TypeVar("Method", bound=Callable[..., Response])

_ETAG: Final = re.compile(r'"[\x21\x23-\x7e]{0,64}"')


class StrictView(APIView):
    """JSON in and out, every caller counted. Who that may be is for the views to say."""

    parser_classes = [StrictJSONParser]
    renderer_classes = [JSONRenderer]
    _throttle: UserTokenThrottle | None = None

    def get_throttles(self) -> list[BaseThrottle]:
        self._throttle = UserTokenThrottle()
        return [self._throttle]

    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Response:
        answer: Response = super().finalize_response(request, response, *args, **kwargs)
        # What may be called here is told on a 405 only.
        if answer.status_code != HTTPStatus.METHOD_NOT_ALLOWED:
            del answer["Allow"]
        if self._throttle is not None and self._throttle.window is not None:
            for name, text in self._throttle.window.headers:
                answer[name] = text
        return answer


class ManagementView(StrictView):
    """A person's view. ``query`` are the parameters that GET knows; every other one is refused."""

    authentication_classes = [UserTokenAuthentication]
    permission_classes = [IsPerson]
    http_method_names = ["get", "head", "post", "patch", "delete"]
    query: ClassVar[type[StrictSerializer] | None] = None

    now: datetime
    actor: Actor
    parameters: dict[str, Any]

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if not isinstance(request.user, User):
            raise not_found()  # the permission above lets nobody else come here
        self.now = clock.now()
        self.actor = actor_for(request.user)
        method = str(request.method).lower()
        # A method that is not there is answered as such, whatever comes with it.
        if method in self.http_method_names and hasattr(self, method):
            query = self.query if method in ("get", "head") else None
            self.parameters = read_query(request.query_params, query)

    def before(self, request: Request) -> None:
        """What a POST has to ask the network before its transaction; most ask nothing."""

    def body(self, serializer: type[StrictSerializer]) -> dict[str, Any]:
        """The checked body of this request. Raises ``ValidationError``."""
        data: Any = self.request.data
        # No body at all comes as an empty form.
        reader = serializer(data={} if isinstance(data, QueryDict) else data)
        reader.is_valid(raise_exception=True)
        return dict(reader.validated_data)

    def changes(self, serializer: type[StrictSerializer]) -> dict[str, Any]:
        """The checked body of a PATCH: at least one field. Raises ``validation_error``."""
        found = self.body(serializer)
        if not found:
            raise invalid("body", "Name at least one field to change.")
        return found


def read_query(given: QueryDict, serializer: type[StrictSerializer] | None) -> dict[str, Any]:
    """The checked query parameters. Raises ``validation_error``, also for one that is unknown or repeated."""
    known = serializer().fields if serializer is not None else {}
    for name, values in given.lists():
        if name not in known:
            raise invalid(public_name(name), "This parameter is not known here.")
        if len(values) != 1:
            raise invalid(name, "Send this parameter once.")
    if serializer is None:
        return {}
    reader = serializer(data={name: given[name] for name in given})
    reader.is_valid(raise_exception=True)
    return dict(reader.validated_data)


def visible(rows: QuerySet[Row], **names: Any) -> Row:
    """The row of a URL, among those the caller may know of; unknown and not-yours are the same 404."""
    row = rows.filter(**names).first()
    if row is None:
        raise not_found()
    return row


def named(rows: QuerySet[Row], field: str, slug: str) -> Row:
    """The row that a body names, among those the caller may know of. Raises ``validation_error``."""
    row = rows.filter(slug=slug).first()
    if row is None:
        raise invalid(field, f"There is no such {field}.")
    return row


def wanted_revision(request: Request) -> int | None:
    """The revision in ``If-Match`` (``"r7"`` -> 7); None without one. A foreign tag never matches: -1."""
    text = str(request.META.get("HTTP_IF_MATCH", "")).strip()
    if text in ("", "*"):
        return None
    if not _ETAG.fullmatch(text):
        raise invalid("If-Match", 'Send one ETag as you got it, such as "r7".')
    match = re.fullmatch(r'"r([0-9]{1,18})"', text)
    return int(match[1]) if match else -1


# Documentation -------------------------------------------------------------------------------------

REFUSALS: Final = "x-refusals"  # a note to the last hook of the document, which takes it out
IDEMPOTENCY_PARAMETER: Final = OpenApiParameter(
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[!-+\--~]+$"},
    OpenApiParameter.HEADER,
    description="The same key and body get the same answer for 24 hours (`Idempotent-Replayed: true`).",
)
IF_MATCH_PARAMETER: Final = OpenApiParameter(
    "If-Match",
    {"type": "string", "pattern": r'^(\*|"[!#-~]{0,64}")$'},
    OpenApiParameter.HEADER,
    description="The ETag that you saw; 412 where the rotation has moved since.",
)


@cache
def page_of(serializer: type[serializers.Serializer[Any]]) -> type[serializers.Serializer[Any]]:
    """The serializer that describes a page of such items."""
    name = serializer.__name__.removesuffix("Serializer")
    members = {
        "items": serializer(many=True),
        "next_cursor": serializers.CharField(allow_null=True),
        "__doc__": f"A page of {name} items.",
    }
    return type(f"{name}PageSerializer", (serializers.Serializer,), members)


def documented(
    summary: str,
    *,
    request: type[StrictSerializer] | None = None,
    answers: Mapping[int, type[serializers.Serializer[Any]] | None],
    query: type[StrictSerializer] | None = None,
    page: bool = False,
    precondition: bool = False,
    refusals: Sequence[int] = (),
    tag: str,
    description: str = "",
) -> Callable[[Method], Method]:
    """Describe one operation. Refusals that every operation may give are added to the document later;
    ``refusals`` are statuses that this one may give besides."""

    def decorate(method: Method) -> Method:
        parameters: list[Any] = [query] if query is not None else []
        if getattr(method, "idempotent", False):
            parameters.append(IDEMPOTENCY_PARAMETER)
        if precondition:
            parameters.append(IF_MATCH_PARAMETER)
        responses = {
            status: OpenApiResponse(page_of(answer) if page and answer else answer, HTTPStatus(status).phrase)
            for status, answer in answers.items()
        }
        decorator = extend_schema(
            # Elsewhere the path makes the name.
            operation_id=summary.lower().replace(" ", "_") if page else None,
            summary=summary,
            description=description or summary + ".",
            request=request,
            responses=responses,
            parameters=parameters,
            tags=[tag],
            extensions={REFUSALS: list(refusals)} if refusals else None,
        )
        described: Method = decorator(method)
        return described

    return decorate
