"""Who plays in the demo: providers with their services, environments, consumers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

TEAM: Final = "imaging"
ENVIRONMENTS: Final = ("dev", "staging", "prod")
CONSUMERS: Final = ("web-shop", "mobile-app", "print-lab", "asset-import")
COPIES: Final = 3  # instances of each consumer in prod
STAGING_CONSUMERS: Final = CONSUMERS[:3]  # with one instance each
MANUAL: Final = "backgrounderase"  # its keys are made by a person on its account page
FORGETFUL: Final = "removebgvideo"  # its management API does not replay an answer that was lost
SERVICES: Final[Mapping[str, tuple[str, str]]] = {
    "backgrounderase": ("background-removal", "Backgrounds of product photos"),
    "removit": ("photo-cleanup", "Objects and text removed from photos"),
    "removebgvideo": ("video-background", "Backgrounds of short clips"),
    "backgroundcut": ("product-cutout", "Cut-outs, also straight from the browser"),
}

# Policies, by what each of them leaves time for.
POLICY: Final = "demo"
CAUTIOUS: Final = "demo-cautious"  # stays on 25 %
WATCHFUL: Final = "demo-watchful"  # stays in monitor


@dataclass(frozen=True)
class DemoKey:
    """A service of one of the providers in one environment."""

    provider: str
    environment: str = "prod"

    @property
    def service(self) -> str:
        return SERVICES[self.provider][0]

    @property
    def name(self) -> str:
        """As people write it; the ledger's page."""
        return f"{self.service}/{self.environment}"

    @property
    def path(self) -> str:
        """Where consumers ask for it."""
        return f"/v1/keys/{self.name}/"

    @property
    def page_label(self) -> str:
        """What a person calls it on the provider's account page."""
        return f"{self.service} {self.environment}"
