"""``keyturn kek``: key-encryption keys, seen and changed on the server itself.

Everything is imported where it is used, as in ``cli``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from keyvault.services.rewrap import Broken

_BETWEEN_TRIES: Final = 1.0
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
_ENVIRONMENTS = click.argument("environments", nargs=-1, metavar="[ENVIRONMENT]...")


@click.group()
@click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), help="Data directory (default: KEYTURN_DATA)."
)
def kek(data: Path | None) -> None:
    """Key-encryption keys (KEKs): what wraps the keys that secrets are sealed with.

    To replace one: add, promote, rewrap, verify, retire. Keys are delivered meanwhile, and each step may be
    interrupted anywhere and run again. ENVIRONMENT is dev, staging, prod, or system (what belongs to no
    environment).
    """
    if data is not None:
        os.environ["KEYTURN_DATA"] = str(data.absolute())


@kek.command()
@_JSON
def status(as_json: bool) -> None:
    """Every KEK: where it is, its state, how many rows need it, its age and health.

    Exit code 1: one does not work, or rows need one that is not held here.
    """
    with _keyturn() as now:
        from keyvault.services import kek_holders, keks

        found = keks.status(now=now())
        holders = kek_holders.live(now())
    if as_json:
        processes = [{"process": one.title, "kids": sorted(one.kids)} for one in holders]
        click.echo(json.dumps({"keks": [asdict(one) for one in found], "processes": processes}, indent=2))
    else:
        rows = [
            (
                one.environment,
                one.kid,
                f"{one.provider} {one.key}".strip(),
                one.state,
                f"{one.rows} row(s)",
                "" if one.age is None else f"{one.age / 86400:.0f} day(s)",
                one.health,
            )
            for one in found
        ]
        widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
        for row in rows:
            click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
        for one in holders:
            lacking = [other.kid for other in found if _lacks(one.primaries, one.kids, other)]
            click.echo(f"{one.title} knows {'all of them' if not lacking else 'not ' + ', '.join(lacking)}")
    if any(one.health not in ("ok", "stale") for one in found):
        sys.exit(1)


def _lacks(primaries: Any, kids: Any, one: Any) -> bool:
    return one.environment in primaries and one.state != "missing" and one.kid not in kids


@kek.command()
@click.argument("environment")
@click.option("--provider", type=click.Choice(["file", "transit", "kms", "pkcs11"]), help="Where it is made.")
@click.option("--key", default="", help="What it is called at a remote provider.")
@_JSON
def add(environment: str, provider: str | None, key: str, as_json: bool) -> None:
    """Add a KEK to the keyring file; nothing is sealed under it yet.

    Where and under which name it is made: KEYTURN_KEK_PROVIDER and KEYTURN_KEK_KEY, unless given.
    """
    with _keyturn() as now:
        from keyvault.actors import SYSTEM
        from keyvault.services import keks

        kid = keks.add(SYSTEM, environment, now=now(), provider=provider or "", key=key)
    _tell(as_json, {"environment": environment, "kid": kid}, f"{environment}: added {kid}")


@kek.command()
@click.argument("environment")
@click.argument("kid")
@click.option("--wait", default=30, show_default=True, help="Seconds in which every process may learn of it.")
@_JSON
def promote(environment: str, kid: str, wait: int, as_json: bool) -> None:
    """Seal under this KEK from now on. Refused while a live process does not know it."""
    with _keyturn() as now:
        from keyvault.actors import SYSTEM
        from keyvault.exceptions import KeyturnError
        from keyvault.services import keks

        end = time.monotonic() + wait
        while True:
            try:
                keks.promote(SYSTEM, environment, kid, now=now())
                break
            except KeyturnError:
                if time.monotonic() >= end:
                    raise
            time.sleep(_BETWEEN_TRIES)
    _tell(as_json, {"environment": environment, "kid": kid}, f"{environment}: {kid} is the primary")


@kek.command()
@_ENVIRONMENTS
@_JSON
def rewrap(environments: Sequence[str], as_json: bool) -> None:
    """Wrap every data key under the primary KEK of its environment.

    Default: all environments that this process holds. Exit code 1: some rows do not open.
    """
    with _keyturn() as now:
        from keyvault.actors import SYSTEM
        from keyvault.services.rewrap import rewrap_environment

        done = [rewrap_environment(SYSTEM, name, now=now()) for name in _held(environments)]
    _tell(
        as_json,
        [asdict(one) for one in done],
        *(f"{one.environment}: {one.rows} row(s) moved to {one.kid}" for one in done),
    )
    _give_up_if_broken({one.environment: one.broken for one in done})


@kek.command()
@_ENVIRONMENTS
@_JSON
def verify(environments: Sequence[str], as_json: bool) -> None:
    """Open every sealed row, and check every signature.

    Default: all environments that this process holds. Exit code 1: some rows do not open; they are named.
    """
    with _keyturn():
        from keyvault.services.rewrap import verify_environment

        done = [verify_environment(name) for name in _held(environments)]
    _tell(
        as_json,
        [asdict(one) for one in done],
        *(f"{one.environment}: {one.rows - len(one.broken)} of {one.rows} row(s) open" for one in done),
    )
    _give_up_if_broken({one.environment: one.broken for one in done})


@kek.command()
@click.argument("environment")
@click.argument("kid")
@_JSON
def retire(environment: str, kid: str, as_json: bool) -> None:
    """Take a KEK out of the keyring file, for good. Refused while anything needs it."""
    with _keyturn() as now:
        from keyvault.actors import SYSTEM
        from keyvault.services import keks

        keks.retire(SYSTEM, environment, kid, now=now())
    _tell(as_json, {"environment": environment, "kid": kid}, f"{environment}: retired {kid}")


# What they share -----------------------------------------------------------------------------------


@contextmanager
def _keyturn() -> Iterator[Any]:
    """Django set up, the clock to read, and every refusal as a message of the command."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "keyvault.project.settings")
    import django

    django.setup()
    from django.db import DatabaseError

    from keyvault import clock
    from keyvault.crypto.errors import IntegrityError, KeyringError, KeyServiceUnavailable
    from keyvault.exceptions import KeyturnError

    try:
        yield clock.now
    except (KeyringError, KeyServiceUnavailable, IntegrityError) as error:
        raise click.ClickException(str(error)) from error
    except KeyturnError as error:
        raise click.ClickException(error.message) from error
    except DatabaseError as error:
        raise click.ClickException(
            "The database is not set up. Run `keyturn serve` once, or `keyturn migrate`."
        ) from error


def _held(wanted: Sequence[str]) -> list[str]:
    """These environments, or all that are held."""
    from keyvault.keystore import keys

    held = keys().keks.describe()
    unknown = sorted(set(wanted) - set(held))
    if unknown:
        raise click.ClickException(
            f"This process holds no KEK of {', '.join(unknown)}. It holds {', '.join(held)}."
        )
    return list(dict.fromkeys(wanted)) or list(held)


def _give_up_if_broken(broken: Mapping[str, Sequence[Broken]]) -> None:
    """Name the rows of each environment that do not open, and end with an error if there are any."""
    for environment, rows in broken.items():
        for row in rows:
            why = (
                "does not open" if row.why == "integrity" else f"needs {row.kid}, which is not to be had here"
            )
            click.echo(f"{environment}: {row.table} {row.id} {why}", err=True)
    count = sum(len(rows) for rows in broken.values())
    if count:
        raise click.ClickException(f"{count} row(s) do not open. Keep the older KEKs.")


def _tell(as_json: bool, document: object, *lines: str) -> None:
    click.echo(json.dumps(document, indent=2) if as_json else "\n".join(lines))
