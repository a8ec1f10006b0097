"""Step 5: the secret itself."""

from __future__ import annotations

from keyvault.crypto.secret import Secret
from keyvault.delivery.choose import Choice
from keyvault.keystore import open_version
from keyvault.models import Key


def open_choice(key: Key, choice: Choice) -> Secret:
    """Open the chosen version. Raises ``IntegrityError`` or ``KeyServiceUnavailable``."""
    # The key is loaded with its environment; without this the context would be read from the database again.
    choice.version.key = key
    return open_version(choice.version)
