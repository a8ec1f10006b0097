"""The providers that exist from the start, as data; migrations and commands copy them into rows.

What a provider's document does not say is chosen here so that a wrong guess delays a rotation and never
breaks one: a probe with a wrong path fails its negative control, and a provider is taken to be key-affine
unless it cannot be.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

_NOTHING: Final = "00000000-0000-0000-0000-000000000000"  # an id that no provider hands out


@dataclass(frozen=True)
class ProviderPreset:
    """One provider. `probe` has the shape that rotation.drivers.base.ProbeSpec.from_json reads."""

    slug: str
    name: str
    base_url: str
    auth_header: str
    auth_scheme: str
    driver: Literal["manual", "http", "generated"]
    driver_config: Mapping[str, object]
    probe: Mapping[str, object] | None
    errors: Literal["nested", "flat"]
    key_affine: bool  # a job or file made with one key cannot be seen with another
    max_keys: int | None = None  # None: not documented
    derived_token_seconds: int = (
        0  # longest life of a token minted from a key; such a token may outlive a revoke
    )
    dashboard_url: str = ""


def _probe(
    method: str,
    path: str,
    *,
    accepted: tuple[int, ...],
    headers: Mapping[str, str] = MappingProxyType({}),
    body: str | None = None,
) -> Mapping[str, object]:
    return MappingProxyType({
        "method": method,
        "path": path,
        "headers": dict(headers),
        "body": body,
        "accepted": list(accepted),
        "rejected": [401],
    })  # fmt: skip


_NO_CONFIG: Final[Mapping[str, object]] = MappingProxyType({})

PROVIDER_PRESETS: Final[tuple[ProviderPreset, ...]] = (
    ProviderPreset(
        slug="backgrounderase",
        name="BackgroundErase",
        base_url="https://api.backgrounderase.com",
        auth_header="x-api-key",
        auth_scheme="",
        driver="manual",
        driver_config=_NO_CONFIG,
        # Keys are checked before images, so a request without an image costs nothing: 401, or some other
        # complaint.
        probe=_probe("POST", "/v2", accepted=(400, 413, 415, 422)),
        errors="nested",
        key_affine=False,
        dashboard_url="https://backgrounderase.com/account#api-access",
    ),
    ProviderPreset(
        slug="removit",
        name="Removit",
        base_url="https://api.removit.eu",
        auth_header="X-API-Key",
        auth_scheme="",
        driver="manual",
        driver_config=_NO_CONFIG,
        probe=_probe("GET", f"/api/v1/status?job_id={_NOTHING}", accepted=(200, 400, 404, 422)),
        errors="flat",
        key_affine=True,
        dashboard_url="https://removit.eu",
    ),
    ProviderPreset(
        slug="removebgvideo",
        name="RemoveBGVideo",
        # The document names no host, and a key must never be sent to one that we made up: an operator fills
        # this in.
        base_url="",
        auth_header="X-Api-Key",
        auth_scheme="",
        driver="manual",
        driver_config=_NO_CONFIG,
        # Only /v1 asks for a key; /api answers anyone and would accept every key there is.
        probe=_probe("GET", f"/v1/jobs/{_NOTHING}", accepted=(200, 400, 404, 422)),
        errors="flat",
        key_affine=True,
    ),
    ProviderPreset(
        slug="backgroundcut",
        name="BackgroundCut",
        base_url="https://api.backgroundcut.co",
        auth_header="Authorization",
        auth_scheme="Token",
        driver="manual",
        driver_config=_NO_CONFIG,
        # A token for no path at all that lives one second: proves the key and costs no image.
        probe=_probe(
            "POST",
            "/v3/auth/access-token/",
            accepted=(200, 201),
            headers={"Content-Type": "application/json"},
            body='{"paths": ["/v3/auth/none/"], "expires_in": 1}',
        ),
        errors="flat",
        key_affine=True,
        derived_token_seconds=600,
        dashboard_url="https://backgroundcut.co",
    ),
    ProviderPreset(
        slug="internal",
        name="Keys that we issue",
        base_url="",
        auth_header="X-API-Key",
        auth_scheme="",
        driver="generated",
        driver_config=_NO_CONFIG,
        probe=None,
        errors="nested",
        key_affine=False,
    ),
)
