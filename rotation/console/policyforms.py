"""What people type about policies. A form only turns text into a policy's JSON; the rules are there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django import forms

from keyvault.console.forms import slug_field
from keyvault.durations import format_duration
from keyvault.exceptions import KeyturnError
from keyvault.strict_json import parse_object
from rotation.policy import APPROVALS, EXPOSURES, Policy, to_json

_PLAIN = {"class": "mono", "autocomplete": "off"}
_UNITS = {"w": 604800, "d": 86400, "h": 3600, "min": 60, "m": 60, "s": 1}
_PART = re.compile(r"([0-9]{1,9})\s*(w|d|h|min|m|s)\b\s*")
_STEP = re.compile(r"([0-9]+)\s*%?\s*(?:for|:)?\s+(?!%)(.+)")
_WINDOW = re.compile(r"(.+?)\s+(\S+)\s*(?:-|–|to)\s*(\S+)\s+(\S+)")
_FREEZE = re.compile(r"(\S+)\s+to\s+(\S+)(?:\s+(.*))?")
_MEMBERS = frozenset(to_json(Policy()))
LENGTHS = ("monitor", "quiet", "cool_off", "deadline", "window", "probe_every", "refresh")
OPTIONAL = ("interval", "max_age", "rehearsal", "force_after")


def told(length: timedelta | None) -> str:
    """A duration as it is typed: ``1 d 4 h``, all units; ISO 8601 where seconds have a fraction."""
    if length is None:
        return ""
    if length.microseconds:
        return format_duration(length)
    rest, parts = int(length.total_seconds()), []
    for unit in ("d", "h", "min", "s"):
        amount, rest = divmod(rest, _UNITS[unit])
        if amount:
            parts.append(f"{amount} {unit}")
    return " ".join(parts) or "0 s"


def meant(text: str) -> str:
    """``1 d 4 h`` as ISO 8601. What is not written like this is left for the policy to judge."""
    text = text.strip()
    parts = _PART.findall(text)
    if not parts or _PART.sub("", text):
        return text
    seconds = sum(int(amount) * _UNITS[unit] for amount, unit in parts)
    return f"PT{seconds}S"


def _length(label: str, help_text: str = "", *, required: bool = True) -> forms.CharField:
    return forms.CharField(
        label=label,
        max_length=40,
        required=required,
        help_text=help_text,
        widget=forms.TextInput(attrs={**_PLAIN, "placeholder": "30 min"}),
    )


def _lines(label: str, help_text: str, rows: int = 3, *, required: bool = False) -> forms.CharField:
    widget = forms.Textarea(attrs={**_PLAIN, "rows": rows, "spellcheck": "false"})
    return forms.CharField(
        label=label, max_length=8000, required=required, help_text=help_text, widget=widget
    )


def _people(label: str) -> forms.IntegerField:
    return forms.IntegerField(label=label, initial=0, widget=forms.NumberInput(attrs={"min": 0, "max": 5}))


PLAIN = ("min_samples", "max_error_rate", "allow_idle", "cutover")  # the same in the form and in JSON


class PolicyForm(forms.Form):
    """Every member of a policy. ``document`` is what was typed, in its JSON form."""

    interval = _length("Replace every", "Such as 90 d. Empty: only when a person starts it.", required=False)
    steps = _lines(
        "Steps", "One in a line: the weight, then how long it is held. The last one is 100.", 4, required=True
    )
    monitor = _length("Healthy time observed", "With both keys honoured, after everybody has moved.")
    quiet = _length("Quiet before the revoke", "For so long nobody may have used the old key.")
    cool_off = _length("Cool-off", "Disabled for so long before it is revoked, where the provider can.")
    deadline = _length("Must end within", "After that a person is called.")
    window = _length("Judged over", "The verdict looks back for so long.")
    min_samples = forms.IntegerField(label="Requests needed for a verdict")
    max_error_rate = forms.FloatField(label="Errors allowed, as a share of 1", help_text="0.02 is 2 %.")
    allow_idle = forms.BooleanField(label="Without traffic a probe is enough", required=False)
    probe_every = _length("Probe both keys every")
    refresh = _length("Consumers ask again after", "While the weight moves.")
    cutover = forms.BooleanField(
        label="One key at a time: the old one ends first",
        required=False,
        help_text="For providers that allow no second key. Consumers have none for a moment.",
    )
    approvals_start = _people("Approvals to start")
    approvals_shift_past_50 = _people("Approvals to go past 50 %")
    approvals_revoke = _people("Approvals to revoke")
    approvals_force = _people("Approvals to force the revoke")
    windows = _lines("Goes on only", "One in a line, such as: mon tue wed 08:00 to 18:00 Europe/Berlin", 2)
    freezes = _lines(
        "Frozen", "One in a line, such as: 2026-12-20T00:00+01:00 to 2027-01-02T00:00+01:00 holidays", 2
    )
    canaries = _lines("Consumers that go first", "Their names, separated by spaces.", 1)
    pinned = _lines("Consumers that go last", "Their names, separated by spaces.", 1)
    max_age = _length("No key older than", "Empty: no limit.", required=False)
    rehearsal = _length("Rehearsed in a lower environment within", "Empty: not asked for.", required=False)
    exposure_revealed = _length(
        "Replaced, once revealed, within", "Empty: no date of its own.", required=False
    )
    exposure_member_left = _length("Once somebody who saw it has left, within", required=False)
    exposure_reported = _length("Once reported, within", required=False)
    force_after = _length(
        "Revoked at the latest", "After everybody has moved. Empty: it waits for the proof.", required=False
    )

    def clean_steps(self) -> list[re.Match[str]]:
        return _read(_STEP, self.cleaned_data["steps"], "5 % for 10 min")

    def clean_windows(self) -> list[re.Match[str]]:
        return _read(_WINDOW, self.cleaned_data["windows"], "mon tue 08:00 to 18:00 Europe/Berlin")

    def clean_freezes(self) -> list[re.Match[str]]:
        return _read(_FREEZE, self.cleaned_data["freezes"], "2026-12-20T00:00Z to 2027-01-02T00:00Z holidays")

    def document(self) -> dict[str, Any]:
        data = self.cleaned_data
        return {
            **{name: data[name] for name in PLAIN},
            **{name: meant(data[name]) for name in LENGTHS},
            **{name: meant(data[name]) or None for name in OPTIONAL},
            "steps": [_step(found) for found in data["steps"]],
            "windows": [_window(found) for found in data["windows"]],
            "freezes": [_freeze(found) for found in data["freezes"]],
            "canaries": data["canaries"].split(),
            "pinned": data["pinned"].split(),
            "approvals": {name: data[f"approvals_{name}"] for name in APPROVALS},
            "exposure": {name: meant(data[f"exposure_{name}"]) or None for name in EXPOSURES},
        }

    def refuse(self, error: KeyturnError) -> None:
        """Put what the policy objects to at the field that it is about."""
        for name, texts in error.fields.items():
            field = next(
                (known for known in self.fields if known == name or known.startswith(f"{name}_")), None
            )
            for text in texts:
                self.add_error(field, text if field else f"{name}: {text}")
        if not error.fields:
            self.add_error(None, error.message)

    @staticmethod
    def values(policy: Policy) -> dict[str, Any]:
        """What the form shows of a policy."""
        document = to_json(policy)
        lengths = {name: told(getattr(policy, name)) for name in (*LENGTHS, *OPTIONAL)}
        return {
            **lengths,
            **{name: document[name] for name in PLAIN},
            "steps": "\n".join(f"{step.weight} % for {told(step.hold)}" for step in policy.steps),
            "windows": "\n".join(
                f"{' '.join(w['days'])} {w['from']} to {w['to']} {w['zone']}" for w in document["windows"]
            ),
            "freezes": "\n".join(
                f"{f['from']} to {f['to']} {f['reason']}".strip() for f in document["freezes"]
            ),
            "canaries": " ".join(policy.canaries),
            "pinned": " ".join(policy.pinned),
            **{f"approvals_{name}": policy.approvals.get(name, 0) for name in APPROVALS},
            **{f"exposure_{name}": told(policy.exposure.get(name)) for name in EXPOSURES},
        }


def _read(pattern: re.Pattern[str], text: str, example: str) -> list[re.Match[str]]:
    """What each line says."""
    read = []
    for n, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        found = pattern.fullmatch(line.strip())
        if found is None:
            raise forms.ValidationError(f"Line {n} is not written like: {example}")
        read.append(found)
    return read


def _step(found: re.Match[str]) -> Mapping[str, Any]:
    return {"weight": int(found[1][:6]), "hold": meant(found[2])}


def _window(found: re.Match[str]) -> Mapping[str, Any]:
    days = found[1].replace(",", " ").split()
    return {"days": days, "from": found[2], "to": found[3], "zone": found[4]}


def _freeze(found: re.Match[str]) -> Mapping[str, Any]:
    return {"from": found[1], "to": found[2], "reason": found[3] or ""}


class NewPolicyForm(PolicyForm):
    slug = slug_field("Name", "careful")
    field_order = ["slug"]


class JsonForm(forms.Form):
    """A policy as the API takes it."""

    json = _lines(
        "As JSON", "The members that the API knows. What is left out keeps its value.", 18, required=True
    )

    def document(self) -> dict[str, Any]:
        """Raises what a body of the API would be refused with."""
        return parse_object(self.cleaned_data["json"].encode("utf-8", "surrogatepass"))

    def refuse(self, error: KeyturnError) -> None:
        for name, texts in error.fields.items():
            for text in texts:
                # A name that nobody knows may be anything; it is not shown again.
                self.add_error("json", f"{name}: {text}" if name in _MEMBERS else text)
        if not error.fields:
            self.add_error("json", error.message)

    @staticmethod
    def values(policy: Policy) -> dict[str, Any]:
        return {"json": json.dumps(to_json(policy), indent=2)}


class NewJsonForm(JsonForm):
    slug = slug_field("Name", "careful")
    field_order = ["slug"]
