"""A small OpenID Connect provider: allauth's own, in a process of its own.

``python -m tests.integration.identity_provider CALLBACK PEOPLE`` prints its port and serves until it ends.
PEOPLE is a JSON file, name -> groups (and ``wrong``), that is read anew with every request. Who is signed in
is told by the header ``X-Person``; everything after that is the protocol.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

CLIENT, SECRET = "keyturn", "made-up-client-secret"

Claims = dict[str, Any]
# One claim that should be refused.
WRONG_CLAIMS: dict[str, Callable[[Claims], Claims]] = {
    "issuer": lambda claims: {"iss": claims["iss"] + "/"},
    "nonce": lambda claims: {"nonce": claims["nonce"][::-1]},
    "no nonce": lambda claims: {"nonce": None},
    "audience": lambda claims: {"aud": "somebody-else"},
    "several without a party": lambda claims: {"aud": [claims["aud"], "somebody-else"]},
    "party": lambda claims: {"azp": "somebody-else"},
    "expired": lambda claims: {"iat": claims["iat"] - 3600, "exp": claims["iat"] - 120},
    "from the future": lambda claims: {"iat": claims["iat"] + 600},
    "no subject": lambda claims: {"sub": ""},
}
# A document or a signature that should be.
WRONG_OTHERWISE = ("signature", "unsigned", "shared secret", "document", "user info")


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


def configure() -> None:
    from django.conf import settings

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    settings.configure(
        SECRET_KEY="of the provider",
        ALLOWED_HOSTS=["127.0.0.1"],
        ROOT_URLCONF="tests.integration.identity_claims",
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "django.contrib.messages",
            "allauth",
            "allauth.account",
            "allauth.idp.oidc",
        ],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
            "tests.integration.identity_provider.person_of_header",
            "allauth.account.middleware.AccountMiddleware",
            "tests.integration.identity_claims.misbehaving",
        ],
        AUTHENTICATION_BACKENDS=["django.contrib.auth.backends.ModelBackend"],
        USE_TZ=True,
        IDP_OIDC_PRIVATE_KEY=pem.decode(),
        IDP_OIDC_ADAPTER="tests.integration.identity_claims.GroupClaims",
    )


def person_of_header(get_response: Any) -> Any:
    def middleware(request: Any) -> Any:
        from django.contrib.auth import get_user_model, login

        name = request.headers.get("X-Person")
        if name:
            user, _ = get_user_model().objects.get_or_create(username=name)
            login(request, user)
        return get_response(request)

    return middleware


def main(callback: str, people: Path) -> None:
    configure()
    os.environ["PEOPLE"] = str(people)
    import django

    django.setup()
    from allauth.idp.oidc.models import Client
    from django.core.management import call_command
    from django.core.wsgi import get_wsgi_application

    call_command("migrate", verbosity=0)
    client = Client(id=CLIENT, scopes="openid\nprofile\nemail", redirect_uris=callback, skip_consent=True)
    client.set_secret(SECRET)
    client.save()
    with make_server("127.0.0.1", 0, get_wsgi_application(), handler_class=Quiet) as server:
        sys.stdout.write(f"{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
