"""The one exception that services raise when they say no."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class KeyturnError(Exception):
    """A refusal that a person or a script can act on.

    ``code`` is one of the codes of the HTTP contract (``keyvault.errors.CODES`` gives its status),
    ``message`` is safe to show to the caller and never holds the offending value, ``fields`` maps an
    input field to what is wrong with it, ``extra`` is added to the error object as it is.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        fields: Mapping[str, Sequence[str]] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fields = {name: list(texts) for name, texts in (fields or {}).items()}
        self.extra = dict(extra or {})


def not_found() -> KeyturnError:
    """What a stranger and an unknown name both get."""
    return KeyturnError("not_found", "Not found.")


def denied(message: str = "Your role does not allow this.") -> KeyturnError:
    return KeyturnError("permission_denied", message)


def invalid(field: str, message: str) -> KeyturnError:
    """A single field is wrong."""
    return KeyturnError("validation_error", "The request is not valid.", fields={field: [message]})
