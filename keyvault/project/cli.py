"""The command ``keyturn``. Everything is imported where it is used: ``get`` starts without Django."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keyvault.project.kek_cli import kek

if TYPE_CHECKING:
    from keyvault.client import Client

_DATA = click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), help="Data directory (default: KEYTURN_DATA)."
)


class KeyturnGroup(click.Group):
    """Our commands, and behind them every command of ``manage.py``."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name) or _management(cmd_name)


def _management(name: str) -> click.Command:
    @click.command(
        name,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> None:
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "keyvault.project.settings")
        from django.core.management import execute_from_command_line

        from keyvault.project.guard import leave_no_core

        leave_no_core()
        execute_from_command_line(["keyturn", name, *arguments])

    return command


@click.group(cls=KeyturnGroup, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Keyturn keeps API keys and replaces them without anyone noticing.

    Every command of manage.py works here too: keyturn migrate, keyturn tick, keyturn help.
    """


main.add_command(kek)


@main.command()
@_DATA
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: any free port."
)
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Web processes.")
def serve(data: Path | None, host: str, port: int, workers: int) -> None:
    """Run everything: web, worker and scheduler."""
    from keyvault.project.supervisor import CannotServe, Options
    from keyvault.project.supervisor import serve as run_until_stopped

    try:
        code = run_until_stopped(Options(host=host, port=port, workers=workers, data=data))
    except CannotServe as error:
        raise click.ClickException(str(error)) from error
    sys.exit(code)


@main.command()
@_DATA
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--once", is_flag=True, help="End when the story is told; without it the console stays open.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--speed", default=1.0, show_default=True, type=click.FloatRange(0.1, 100), help="Faster policies."
)
def demo(data: Path | None, port: int, once: bool, as_json: bool, speed: float) -> None:
    """Rotate a key of each simulated provider under load, and report what the consumers saw."""
    from keyvault.project.demo import run

    sys.exit(run(data, port, once, as_json, speed))


@main.command()
@click.argument("username")
@click.option("--admin", is_flag=True, help="Make this person an administrator; create them if absent.")
@click.option("--expires", default="PT8H", show_default=True, help="Life of the token, ISO 8601.")
@_DATA
def token(username: str, admin: bool, expires: str, data: Path | None) -> None:
    """Print a user token for scripts."""
    if data is not None:
        os.environ["KEYTURN_DATA"] = str(data.absolute())
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "keyvault.project.settings")
    import django

    from keyvault.project.guard import leave_no_core

    leave_no_core()
    django.setup()
    from keyvault.project.token_command import TokenRefused, user_token

    try:
        secret = user_token(username, admin=admin, expires=expires)
    except TokenRefused as error:
        raise click.ClickException(str(error)) from error
    click.echo(secret.expose())


@main.command()
@click.argument("service")
@click.argument("environment")
@click.option(
    "--version", "version", default="", help="current, pending, previous or a number (needs a grant)."
)
@click.option("--format", "form", default="raw", show_default=True, type=click.Choice(["raw", "json", "env"]))
def get(service: str, environment: str, version: str, form: str) -> None:
    """Print a key. Needs KEYTURN_URL and KEYTURN_TOKEN."""
    from keyvault.client import ClientError

    try:
        answer = _client().get(service, environment, version=version, form=form)
    except ClientError as error:
        _give_up(error)
    click.echo(answer.body.decode().rstrip("\n"))


@main.command()
@click.argument("service")
@click.argument("environment")
@click.option("--show-key", is_flag=True, help="Print the key too.")
def watch(service: str, environment: str, show_key: bool) -> None:
    """Print one JSON line whenever this instance gets another version."""
    from keyvault.client import ClientError

    try:
        for answer in _client().watch(service, environment):
            document = answer.document()
            if not show_key:
                document.pop("key", None)
            click.echo(json.dumps(document))
    except ClientError as error:
        _give_up(error)


@main.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    options_metavar="",
    short_help="Run a program with keys in its environment.",
)
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED, metavar="KEY... -- COMMAND")
def run(arguments: tuple[str, ...]) -> None:
    """Run COMMAND with keys in its environment, each KEY written SERVICE:ENVIRONMENT:VARIABLE."""
    from keyvault import client

    # The shell's "--" tells our arguments from the program's; click swallows it, so the first
    # argument that is no binding starts the command.
    count = next(
        (at for at, text in enumerate(arguments) if text == "--" or text.count(":") != 2), len(arguments)
    )
    keys, command = arguments[:count], arguments[count:]
    if command[:1] == ("--",):
        command = command[1:]
    if not keys or not command:
        raise click.UsageError("Write: keyturn run SERVICE:ENVIRONMENT:VARIABLE... -- COMMAND")
    try:
        client.run(_client(), [client.parse_binding(text) for text in keys], command)
    except client.ClientError as error:
        _give_up(error)


@main.group()
def evidence() -> None:
    """Files that prove what happened in a rotation."""


@evidence.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option(
    "--jwks", metavar="URL|FILE", help="The installation's key set. Default: that of KEYTURN_URL, fetched."
)
def verify(file: str, jwks: str | None) -> None:
    """Check the signature of an evidence FILE.

    Exit codes: 0 genuine, 7 changed or signed by another key, 4 the key set does not name the signer, 2 file
    or key set cannot be read, 5 the key set cannot be fetched.
    """
    from keyvault.client import KEY_SET, ClientError
    from keyvault.project import evidence_command

    address = os.environ.get("KEYTURN_URL", "http://127.0.0.1:8000").rstrip("/")
    try:
        click.echo(evidence_command.verify(file, jwks or f"{address}{KEY_SET}"))
    except ClientError as error:
        _give_up(error)


def _client() -> Client:
    from keyvault.client import Client

    return Client.from_environment()


def _give_up(error: Exception) -> None:
    click.echo(f"keyturn: {error}", err=True)
    sys.exit(getattr(error, "exit_code", 1))


if __name__ == "__main__":
    main()
