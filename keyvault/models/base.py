"""What several models share."""

from __future__ import annotations

import uuid

from django.core.validators import RegexValidator
from django.db import models

SLUG = r"[a-z0-9][a-z0-9-]{0,62}"
validate_slug = RegexValidator(rf"\A{SLUG}\Z", "Use lower-case letters, digits and dashes (at most 63).")


def slug_field(*, unique: bool = True) -> models.CharField[str, str]:
    return models.CharField(max_length=63, unique=unique, validators=[validate_slug])


class UUIDModel(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)

    class Meta:
        abstract = True
