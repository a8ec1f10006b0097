"""A provider whose keys a person makes on a page: BackgroundErase, and any other until we know better.

The person creates and revokes; Keyturn proves both by probing.
"""

from typing import NoReturn

from keyvault.crypto.secret import Secret
from rotation.drivers import probe
from rotation.drivers.base import (
    Capabilities,
    Issued,
    IssueRequest,
    Listed,
    NeedsPerson,
    ProbeResult,
    ProviderSpec,
)


class ManualDriver:
    """Everything but the probe needs a person."""

    kind = "manual"

    def capabilities(self, spec: ProviderSpec) -> Capabilities:
        """None: there is no management API."""
        return Capabilities(issue=False, list=False, disable=False, revoke=False, replay=False)

    def issue(self, spec: ProviderSpec, request: IssueRequest) -> Issued:
        """Raises NeedsPerson."""
        self._ask(spec, f"create a key named {request.label} for {request.environment} and supply it here")

    def probe(self, spec: ProviderSpec, secret: Secret) -> ProbeResult:
        """Ask the provider whether it honours this secret."""
        return probe.probe(spec, secret)

    def list(self, spec: ProviderSpec) -> tuple[Listed, ...]:
        """Raises NeedsPerson."""
        self._ask(spec, "look at the list of keys")

    def disable(self, spec: ProviderSpec, provider_key_id: str) -> None:
        """Raises NeedsPerson."""
        self._ask(spec, f"disable {self._named(provider_key_id)}")

    def enable(self, spec: ProviderSpec, provider_key_id: str) -> None:
        """Raises NeedsPerson."""
        self._ask(spec, f"enable {self._named(provider_key_id)}")

    def revoke(self, spec: ProviderSpec, provider_key_id: str) -> None:
        """Raises NeedsPerson."""
        self._ask(spec, f"revoke {self._named(provider_key_id)}, then confirm it here")

    @staticmethod
    def _named(provider_key_id: str) -> str:
        return f"the key {provider_key_id}" if provider_key_id else "the outgoing key"

    @staticmethod
    def _ask(spec: ProviderSpec, what: str) -> NoReturn:
        raise NeedsPerson("needs_person", f"On the account page of {spec.slug}: {what}.")
