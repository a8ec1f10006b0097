"""Single sign-on asks its provider by the one way out, in the form that allauth knows."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from django.conf import settings
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from rotation import egress

# Written by the way out itself.
_ITS_OWN: Final = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding"})


def session_by_egress(session: requests.Session) -> requests.Session:
    """The session, whose calls now obey the egress rules: no redirects, no proxy of the environment."""
    session.trust_env, session.max_redirects = False, 0
    session.adapters.clear()
    session.mount("", ByEgress())
    return session


class ByEgress(BaseAdapter):
    """One call. Refused and failed ones become the exceptions that callers of requests expect."""

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: float | tuple[float | None, float | None] | None = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        body = request.body.encode() if isinstance(request.body, str) else request.body
        if not isinstance(body, bytes | None):
            raise requests.exceptions.InvalidURL("a body that is read in pieces cannot be sent")
        headers = {name: _text(value) for name, value in request.headers.items()}
        try:
            answer = egress.request(
                request.method or "GET",
                request.url or "",
                headers={name: value for name, value in headers.items() if name.lower() not in _ITS_OWN},
                content=body,
                allow_hosts=_allowed(),
                timeout=timeout if isinstance(timeout, int | float) else egress.TOTAL_SECONDS,
            )
        except egress.EgressRefused as refused:
            raise requests.exceptions.InvalidURL(refused.message) from None
        except egress.EgressTimeout as error:
            raise requests.exceptions.ReadTimeout(error.message) from None
        except egress.EgressError as error:
            raise requests.exceptions.ConnectionError(error.message) from None
        return _response(request, answer)

    def close(self) -> None:
        """Every call has a connection of its own, which is closed by then."""


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _allowed() -> frozenset[str]:
    """The development list, and the provider where the setting says it is: that may be a private address.

    What the provider's own document names is held to the rules again, unless it is the same host and port.
    """
    issuer = urlsplit(settings.KEYTURN_OIDC_ISSUER)
    host = issuer.hostname or ""
    port = issuer.port or (443 if issuer.scheme == "https" else 80)
    return frozenset(settings.KEYTURN_EGRESS_ALLOW) | {
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    }


def _response(request: requests.PreparedRequest, answer: egress.EgressResponse) -> requests.Response:
    response = requests.Response()
    response.status_code = answer.status
    response.headers = CaseInsensitiveDict(answer.headers)
    response.encoding = requests.utils.get_encoding_from_headers(response.headers)
    response.raw = io.BytesIO(answer.body)
    response.url = request.url or ""
    response.request = request
    return response
