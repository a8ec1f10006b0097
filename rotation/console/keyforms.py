"""Adding one key to several environments at once: a check-box and a secret of its own for each of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django import forms

from keyvault.actors import Actor
from keyvault.console.forms import SecretField, managed_teams
from keyvault.crypto.secret import Secret
from keyvault.models import Environment, Service
from rotation.models import RotationPolicy

PASTE, ISSUE = "paste", "issue"


@dataclass(frozen=True)
class Place:
    """What is wanted in one environment. ``secret`` None: the provider's driver issues it."""

    environment: Environment
    secret: Secret | None
    never_shown: bool


@dataclass(frozen=True)
class PlaceFields:
    """The three fields of one environment, for the page."""

    environment: Environment
    wanted: forms.BoundField
    secret: forms.BoundField
    never_shown: forms.BoundField


class NewKeyForm(forms.Form):
    service = forms.ModelChoiceField(Service.objects.none(), to_field_name="slug", empty_label=None)
    source = forms.ChoiceField(
        label="Where does the first version come from",
        choices=[
            (PASTE, "I have a key and paste it"),
            (ISSUE, "Keyturn asks the provider for one (only where its driver can)"),
        ],
        initial=PASTE,
        widget=forms.RadioSelect,
    )
    policy = forms.ModelChoiceField(
        RotationPolicy.objects.exclude(slug="emergency"),
        to_field_name="slug",
        required=False,
        empty_label="the default of the environment",
        help_text="How and how often the key is replaced.",
    )

    def __init__(self, *args: Any, actor: Actor, wanted: str = "", **kwargs: Any) -> None:
        """``wanted``: the environment to check beforehand, else the first one that is not protected."""
        super().__init__(*args, **kwargs)
        services = Service.objects.filter(team__in=managed_teams(actor)).select_related("provider")
        self.fields["service"].queryset = services  # type: ignore[attr-defined]
        self.environments = list(Environment.objects.all())
        if wanted not in {row.slug for row in self.environments}:
            wanted = next((row.slug for row in self.environments if not row.protected), "")
        for row in self.environments:
            self.fields[f"in_{row.slug}"] = forms.BooleanField(
                label=row.name, required=False, initial=row.slug == wanted
            )
            secret = SecretField(label=f"Key for {row.slug}", required=False)
            secret.widget.attrs["placeholder"] = f"Paste the key for {row.slug}"
            self.fields[f"secret_{row.slug}"] = secret
            self.fields[f"never_shown_{row.slug}"] = forms.BooleanField(
                label="Never show it to people", required=False, initial=row.protected
            )

    def place_fields(self) -> Iterator[PlaceFields]:
        for row in self.environments:
            names = (f"in_{row.slug}", f"secret_{row.slug}", f"never_shown_{row.slug}")
            yield PlaceFields(row, *(self[name] for name in names))

    @property
    def places(self) -> list[Place]:
        """Of a valid form: where keys are wanted."""
        chosen = [row for row in self.environments if self.cleaned_data[f"in_{row.slug}"]]
        return [
            Place(row, self.cleaned_data[f"secret_{row.slug}"], self.cleaned_data[f"never_shown_{row.slug}"])
            for row in chosen
        ]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        for row in self.environments:
            self._check(cleaned, row.slug)
        if not any(cleaned.get(f"in_{row.slug}") for row in self.environments):
            self.add_error(None, "Choose at least one environment.")
        self._refuse_twice(cleaned)
        return cleaned

    def _check(self, cleaned: dict[str, Any], slug: str) -> None:
        """A pasted key for every environment that was chosen, and for no other."""
        name, pasted = f"secret_{slug}", cleaned.get(f"secret_{slug}")
        if name in self.errors:
            return
        if not cleaned.get(f"in_{slug}"):
            if pasted is not None:
                self.add_error(name, f"Check {slug} too, or leave this empty.")
        elif cleaned.get("source") == PASTE and pasted is None:
            self.add_error(name, f"Paste the key for {slug}, or let Keyturn ask the provider for one.")
        elif cleaned.get("source") == ISSUE and pasted is not None:
            self.add_error(name, "Leave this empty: the provider is going to make the key.")

    def _refuse_twice(self, cleaned: dict[str, Any]) -> None:
        seen: dict[str, str] = {}
        for row in self.environments:
            pasted = cleaned.get(f"secret_{row.slug}")
            if pasted is None:
                continue
            first = seen.setdefault(pasted.expose(), row.slug)
            if first != row.slug:
                self.add_error(
                    f"secret_{row.slug}", f"This is the key for {first} again. Use one key per environment."
                )
