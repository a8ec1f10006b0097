"""manage.py drift: look now whether providers and Keyturn agree about the keys."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from keyvault import clock
from rotation.services import drifting


class Command(BaseCommand):
    help = (
        "Compare the keys at the providers with those held here: what should live and does not, what should "
        "be dead and is not, and keys that nobody owns. Nothing is changed at a provider."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("provider", nargs="*", help="Slugs of providers; without any, all of them.")
        parser.add_argument("--json", action="store_true", dest="as_json", help="Print the findings as JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        known = {provider.slug for provider in drifting.providers()}
        strangers = sorted(set(options["provider"]) - known)
        if strangers:
            raise CommandError(f"Nothing to look at: {', '.join(strangers)}. There is: {', '.join(known)}.")
        looked = drifting.check_all(options["provider"], clock.now())
        rows = [
            {
                "provider": provider.slug,
                "kind": row.kind,
                "key": str(row.key) if row.key else None,
                "version": row.version.number if row.version else None,
                "provider_key_id": row.provider_key_id,
                "label": row.label,
                "detail": row.detail,
            }
            for provider, found in looked.items()
            for row in found
        ]
        if options["as_json"]:
            self.stdout.write(json.dumps(rows))
            return
        for row in rows:
            place = (
                f"{row['key']} v{row['version']}" if row["key"] else row["label"] or row["provider_key_id"]
            )
            self.stdout.write(f"{row['provider']}: {row['kind']}: {place}: {row['detail']}")
        self.stdout.write(f"{len(looked)} provider(s) looked at, {len(rows)} difference(s)")
