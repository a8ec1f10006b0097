"""Access tokens made by hand: right signatures over everything that a verifier must not take."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyvault.crypto.keyring_document import ServiceKeys

TYPE = "keyturn-at+jwt"


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@dataclass(frozen=True)
class Forge:
    """Whoever has the signing key of an installation, and means no good. ``issued`` is in seconds."""

    keys: ServiceKeys
    issuer: str
    audience: str
    parent: str
    issued: int
    environment: str = "prod"

    def header(self) -> dict[str, Any]:
        return {"alg": "EdDSA", "typ": TYPE, "kid": self.keys.signing_kid}

    def claims(self) -> dict[str, Any]:
        return {
            "iss": self.issuer,
            "aud": self.audience,
            "sub": self.parent,
            "env": self.environment,
            "paths": ["*"],
            "iat": self.issued,
            "nbf": self.issued,
            "exp": self.issued + 60,
            "jti": str(uuid.UUID(int=1, version=4)),
        }

    def signed(self, head: object, body: object, key: Ed25519PrivateKey | None = None) -> str:
        """A token with a right signature over whatever is in it."""
        raw_head = head if isinstance(head, bytes) else json.dumps(head).encode()
        raw_body = body if isinstance(body, bytes) else json.dumps(body).encode()
        text = f"{encoded(raw_head)}.{encoded(raw_body)}"
        return f"{text}.{encoded((key or self.keys.signing).sign(text.encode()))}"

    def sound(self) -> str:
        return self.signed(self.header(), self.claims())

    def other_headers(self) -> dict[str, str]:
        return {f"header: {name}": self.signed(make(self), self.claims()) for name, make in HEADERS.items()}

    def other_claims(self) -> dict[str, str]:
        return {f"claims: {name}": self.signed(self.header(), make(self)) for name, make in CLAIMS.items()}

    def other_keys(self) -> dict[str, str]:
        """Signed with what everybody has, or by nobody."""
        public = self.keys.signing.public_key()
        raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        ours = {"typ": TYPE, "kid": self.keys.signing_kid}
        body, rest = self.claims(), self.sound().split(".")[1]
        none = encoded(json.dumps({**ours, "alg": "none"}).encode())
        return {
            "key: another": self.signed(self.header(), body, Ed25519PrivateKey.generate()),
            "key: HS256 with the public key": jwt.encode(body, raw, algorithm="HS256", headers=ours),
            "key: HS256, no kid": jwt.encode(body, raw, algorithm="HS256"),
            "key: HS256 with its PEM": self._hmac(ours, pem),
            "key: none": jwt.encode(body, "", algorithm="none", headers=ours),
            "key: none, signature of zeros": f"{none}.{rest}.{'A' * 86}",
        }

    def _hmac(self, head: dict[str, Any], secret: bytes) -> str:
        # The library refuses to do this.
        import hmac

        parts = (json.dumps({**head, "alg": "HS256"}).encode(), json.dumps(self.claims()).encode())
        text = ".".join(encoded(part) for part in parts)
        return f"{text}.{encoded(hmac.digest(secret, text.encode(), 'sha256'))}"

    def other_spellings(self) -> dict[str, str]:
        text = self.sound()
        head, body, signature = text.split(".")
        return {
            "spelling: =": f"{text}=",
            "spelling: ==": f"{text}==",
            "spelling: line break": f"{text}\n",
            "spelling: padded header": f"{head}=.{body}.{signature}",
            "spelling: one more segment": f"{text}.x",
            "spelling: one more dot": f"{text}.",
            "spelling: no signature": f"{head}.{body}.",
            "spelling: two segments": f"{head}.{body}",
            "spelling: cut short": text[:-1],
            "spelling: loose bits": text[:-1] + _looser(text[-1]),
            "spelling: plain base64": text.replace("-", "+").replace("_", "/") + "/",
            "spelling: upper case": text.upper(),
            "spelling: huge": text + "A" * 4000,
        }

    def all(self) -> dict[str, str]:
        """Every token that must be refused, by name."""
        return {
            **self.other_headers(),
            **self.other_claims(),
            **self.other_keys(),
            **self.other_spellings(),
        }


def _looser(character: str) -> str:
    """The last of 86 characters has four bits that mean nothing and are zero."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return alphabet[alphabet.index(character) + 1]


Make = Callable[[Forge], object]

HEADERS: dict[str, Make] = {
    "alg none": lambda f: f.header() | {"alg": "none"},
    "alg HS256": lambda f: f.header() | {"alg": "HS256"},
    "alg RS256": lambda f: f.header() | {"alg": "RS256"},
    "alg Ed25519": lambda f: f.header() | {"alg": "Ed25519"},
    "alg lower": lambda f: f.header() | {"alg": "eddsa"},
    "alg list": lambda f: f.header() | {"alg": ["EdDSA"]},
    "no alg": lambda f: {"typ": "keyturn-at+jwt", "kid": f.keys.signing_kid},
    "typ JWT": lambda f: f.header() | {"typ": "JWT"},
    "typ case": lambda f: f.header() | {"typ": "KEYTURN-AT+JWT"},
    "no typ": lambda f: {"alg": "EdDSA", "kid": f.keys.signing_kid},
    "no kid": lambda f: {"alg": "EdDSA", "typ": "keyturn-at+jwt"},
    "kid unknown": lambda f: f.header() | {"kid": "sign-other"},
    "kid path": lambda f: f.header() | {"kid": "../../etc/passwd"},
    "kid number": lambda f: f.header() | {"kid": 1},
    "kid null": lambda f: f.header() | {"kid": None},
    "crit": lambda f: f.header() | {"crit": ["exp"]},
    "b64": lambda f: f.header() | {"b64": False, "crit": ["b64"]},
    "b64 true": lambda f: f.header() | {"b64": True},
    "jwk": lambda f: f.header() | {"jwk": {"kty": "OKP"}},
    "jku": lambda f: f.header() | {"jku": "https://evil.example/jwks"},
    "x5u": lambda f: f.header() | {"x5u": "https://evil.example/"},
    "zip": lambda f: f.header() | {"zip": "DEF"},
    "cty": lambda f: f.header() | {"cty": "JWT"},
    "list": lambda f: [f.header()],
    "text": lambda f: "EdDSA",
    "null": lambda f: None,
    "not json": lambda f: b"{",
    "not utf-8": lambda f: b"\xff\xfe",
    "alg twice": lambda f: json.dumps(f.header()).encode().replace(b'{"alg"', b'{"alg":"EdDSA","alg"'),
    "deep": lambda f: b"[" * 2400,
}


def altered(name: str, make: Callable[[Forge, Any], object]) -> Make:
    """The claims with another value of one, made from the true one."""
    return lambda f: f.claims() | {name: make(f, f.claims()[name])}


def fixed(name: str, value: object) -> Make:
    return lambda f: f.claims() | {name: value}


def without(name: str) -> Make:
    return lambda f: {key: value for key, value in f.claims().items() if key != name}


NAMES = ("iss", "aud", "sub", "env", "paths", "iat", "nbf", "exp", "jti")
TIMES = ("iat", "nbf", "exp")
CLAIMS: dict[str, Make] = {
    **{f"no {name}": without(name) for name in NAMES},
    **{f"{name} null": fixed(name, None) for name in NAMES},
    **{f"{name} list": altered(name, lambda f, true: [true]) for name in NAMES if name != "paths"},
    **{f"{name} text": altered(name, lambda f, true: str(true)) for name in TIMES},
    **{f"{name} float": altered(name, lambda f, true: true + 0.0) for name in TIMES},
    **{f"{name} true": fixed(name, True) for name in TIMES},
    **{f"{name} huge": fixed(name, 10**400) for name in TIMES},
    **{f"{name} negative": fixed(name, -1) for name in TIMES},
    "one more claim": fixed("admin", True),
    "iss other": altered("iss", lambda f, true: f"{true}/"),
    "iss part": altered("iss", lambda f, true: true[:-1]),
    "aud other": fixed("aud", "keyturn:other"),
    "aud empty": fixed("aud", ""),
    "aud list with ours": altered("aud", lambda f, true: ["x", true]),
    "sub no uuid": fixed("sub", "1"),
    "sub upper": altered("sub", lambda f, true: true.upper()),
    "sub braces": altered("sub", lambda f, true: "{" + true + "}"),
    "sub hex": altered("sub", lambda f, true: true.replace("-", "")),
    "jti no uuid": fixed("jti", "x"),
    "env upper": altered("env", lambda f, true: true.upper()),
    "env path": altered("env", lambda f, true: f"../{true}"),
    "paths text": fixed("paths", "*"),
    "paths empty": fixed("paths", []),
    "paths number": fixed("paths", [1]),
    "paths nested": fixed("paths", [["*"]]),
    "paths bad": fixed("paths", ["/v1/**"]),
    "paths 21": fixed("paths", ["*"] * 21),
    "exp equals iat": altered("exp", lambda f, true: f.issued),
    "exp before iat": altered("exp", lambda f, true: f.issued - 1),
    "lives 601 s": altered("exp", lambda f, true: f.issued + 601),
    "nbf later": altered("nbf", lambda f, true: true + 1),
    "nbf earlier": altered("nbf", lambda f, true: true - 1),
    "issued in the future": lambda f: f.claims() | dict.fromkeys(("iat", "nbf"), f.issued + 30),
    "list": lambda f: [f.claims()],
    "null": lambda f: None,
    "not json": lambda f: b"not json",
    "NaN": lambda f: json.dumps(f.claims() | {"exp": float("nan")}).encode(),
    "Infinity": lambda f: json.dumps(f.claims() | {"exp": float("inf")}).encode(),
    "exp twice": lambda f: json.dumps(f.claims()).encode().replace(b'"exp"', b'"exp": 1, "exp"'),
    "utf-16": lambda f: json.dumps(f.claims()).encode("utf-16"),
    "with BOM": lambda f: b"\xef\xbb\xbf" + json.dumps(f.claims()).encode(),
    "500 digits": lambda f: json.dumps(f.claims()).encode().replace(str(f.issued).encode(), b"9" * 500),
    "deep": lambda f: b'{"iss":' + b"[" * 2000,
}
