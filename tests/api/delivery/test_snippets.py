"""The snippets of a key's page, copied from the page, do what they promise on a running server."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.test import Client

from keyvault.console.snippets import variable_of
from keyvault.domain import OrganisationRole
from keyvault.models import User
from tests.api.delivery.world import World

Snippets = dict[str, str]
TOOLS = {"curl", "cli", "python", "github", "gitlab", "kubernetes", "terraform", "docker"}


@pytest.fixture
def copied(world: World, settings: Any) -> Snippets:
    """What the copy buttons of the page take."""
    settings.KEYTURN_URL = f"http://127.0.0.1:{world.server.port}"
    name = f"auditor-{world.service.slug}"
    person = User.objects.create(username=name, organisation_role=OrganisationRole.AUDITOR)
    client = Client()
    client.force_login(person)
    page = client.get(f"/keys/{world.service.slug}/{world.environment.slug}/").content.decode()
    texts = re.findall(r'<code id="snippet-(\w+)">(.*?)</code>', page, re.DOTALL)
    assert all(f'data-copy="snippet-{slug}"' in page for slug, _ in texts)
    return {slug: html.unescape(text) for slug, text in texts}


def run(world: World, *command: str, text: str | None = None, **more: str) -> str:
    """What it prints. ``keyturn`` is the one of this environment; it must end with 0."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "KEYTURN_TOKEN": world.token, "HOME": str(world.server.data), **more}
    done = subprocess.run(
        command, input=text, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def shell(world: World, text: str, **more: str) -> str:
    return run(world, "bash", "-euo", "pipefail", "-c", text, **more)


def test_every_snippet_says_what_it_should_and_no_token(world: World, copied: Snippets) -> None:
    assert set(copied) == TOOLS
    address = f"http://127.0.0.1:{world.server.port}"
    assert all(address in text and world.service.slug in text for text in copied.values())
    assert not any("ktc_" in text for text in copied.values())


def test_curl_and_the_shell_parts_of_the_others_print_the_key(
    world: World, copied: Snippets, tmp_path: Path
) -> None:
    variable = variable_of(world.service.slug)
    assert f'"key":"{world.secret}"' in shell(world, copied["curl"]).replace(" ", "")

    (step,) = yaml.safe_load(copied["github"])
    assert step["env"] == {"KEYTURN_TOKEN": "${{ secrets.KEYTURN_TOKEN }}"}
    shell(world, step["run"], GITHUB_ENV=str(tmp_path / "env"))
    assert (tmp_path / "env").read_text() == f"{variable}={world.secret}\n"

    (job,) = yaml.safe_load(copied["gitlab"]).values()
    assert shell(world, "\n".join([*job["script"], f"printenv {variable}"])).endswith(f"{world.secret}\n")

    # What docker would be given; an image is nobody's here.
    (tmp_path / "docker").write_text(f'#!/bin/sh\necho "$@"\nprintenv {variable}\n')
    (tmp_path / "docker").chmod(0o755)
    told = shell(world, f'PATH="{tmp_path}:$PATH"\n{copied["docker"]}').splitlines()
    assert told == [f"run --rm -e {variable} your-image", world.secret]


def test_the_command_and_python_print_the_key(world: World, copied: Snippets) -> None:
    assert shell(world, copied["cli"]) == f"{world.secret}\n{world.secret}\n"
    assert run(world, sys.executable, "-c", f"{copied['python']}\nprint(api_key)") == f"{world.secret}\n"


def test_kubernetes_asks_where_the_key_is_and_reads_it_from_the_answer(
    world: World, copied: Snippets
) -> None:
    store, wanted = yaml.safe_load_all(copied["kubernetes"])
    assert (store["kind"], wanted["kind"]) == ("SecretStore", "ExternalSecret")
    webhook = store["spec"]["provider"]["webhook"]
    (entry,) = wanted["spec"]["data"]
    address = webhook["url"].replace("{{ .remoteRef.key }}", entry["remoteRef"]["key"])
    assert webhook["headers"] == {"X-API-Key": "{{ .auth.token }}"}
    assert webhook["result"]["jsonPath"] == "$.key"
    assert world.server.send("GET", address.partition(str(world.server.port))[2], world.auth).json["key"]


def test_terraform_is_well_formed_and_asks_for_the_bare_key(world: World, copied: Snippets) -> None:
    text = copied["terraform"]
    for opening, closing in ("{}", "()", "[]"):
        assert text.count(opening) == text.count(closing)
    (address,) = re.findall(r'url\s+= "http://[^/]+(/[^"]+)"', text)
    assert world.server.send("GET", address, world.auth).body == world.secret.encode()
    tool = shutil.which("terraform")
    formatted: Callable[[str], str] = lambda given: run(world, str(tool), "fmt", "-", text=given)  # noqa: E731
    assert tool is None or formatted(text) == text
