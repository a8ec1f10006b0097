"""GET /v1/.well-known/jwks.json"""

from __future__ import annotations

from keyvault.keystore import keys
from tests.api.conftest import Server

PATH = "/v1/.well-known/jwks.json"


class Test200:
    def test_the_public_half_only(self, installed: Server) -> None:
        reply = installed.send("GET", PATH)
        assert reply.status == 200
        (key,) = reply.json["keys"]
        assert set(key) == {"kty", "crv", "use", "alg", "kid", "x"}
        assert (key["kty"], key["crv"], key["alg"], key["kid"]) == (
            "OKP",
            "Ed25519",
            "EdDSA",
            keys().service.signing_kid,
        )


class Test405:
    def test_other_methods(self, installed: Server) -> None:
        assert installed.send("POST", PATH).headers["allow"] == "GET, HEAD"


class Test503:
    def test_no_keyring(self, installed: Server) -> None:
        hidden = installed.keyring.with_suffix(".away")
        installed.keyring.rename(hidden)
        try:
            reply = installed.send("GET", PATH)
        finally:
            hidden.rename(installed.keyring)
        assert (reply.status, reply.code) == (503, "key_service_unavailable")
