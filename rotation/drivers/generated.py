"""Keys that we issue ourselves: the service behind them asks Keyturn whether a key is valid.

Our own database is the provider, so disabling and revoking are the state that the caller writes to the
version's row; here they have nothing left to do.
"""

from uuid import uuid4

from keyvault.crypto.secret import Secret
from keyvault.crypto.tokens import TokenKind, mint
from rotation.drivers.base import (
    Capabilities,
    Issued,
    IssueRequest,
    Listed,
    ProbeOutcome,
    ProbeResult,
    ProviderSpec,
)


class GeneratedDriver:
    """Mints keys; `spec.honours` answers for our own database."""

    kind = "generated"

    def capabilities(self, spec: ProviderSpec) -> Capabilities:
        """All but replay: a secret is never made twice."""
        return Capabilities(issue=True, list=True, disable=True, revoke=True, replay=False)

    def issue(self, spec: ProviderSpec, request: IssueRequest) -> Issued:
        """Mint a key of 256 random bits; it is honoured from the moment its version is stored."""
        return Issued(
            secret=mint(TokenKind.ISSUED, request.environment), provider_key_id=f"generated-{uuid4().hex}"
        )

    def probe(self, spec: ProviderSpec, secret: Secret) -> ProbeResult:
        """Ask our own database."""
        if spec.honours is None:
            return ProbeResult(ProbeOutcome.INCONCLUSIVE, detail="there is no verifier to ask")
        if spec.honours(secret):
            return ProbeResult(ProbeOutcome.ACCEPTED, detail="we honour the key")
        return ProbeResult(ProbeOutcome.REJECTED, detail="we refuse the key")

    def list(self, spec: ProviderSpec) -> tuple[Listed, ...]:
        """Nothing, ever: a key whose issue was lost was never stored, so nobody honours it."""
        return ()

    def disable(self, spec: ProviderSpec, provider_key_id: str) -> None:
        """Done by the state of the version."""

    def enable(self, spec: ProviderSpec, provider_key_id: str) -> None:
        """Done by the state of the version."""

    def revoke(self, spec: ProviderSpec, provider_key_id: str) -> None:
        """Done by the state of the version."""
