"""Draw the pictures of the documentation anew: ``python -m tests.browser.screens docs/screens``.

The same furniture as in the tests, in a database of its own that is thrown away afterwards.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Literal

import django

import tests.bootstrap  # noqa: F401  prepares the environment before Django reads its settings

# ruff: noqa: E402  nothing of Django may be imported before this point
os.environ["KEYTURN_HEARTBEAT_MAX_AGE"] = "3600"
os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
os.environ["KEYTURN_LOG_LEVEL"] = "ERROR"
django.setup()

from django.conf import settings
from django.core.management import call_command
from django.test.utils import setup_test_environment
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.domain import Role
from keyvault.models import Heartbeat
from keyvault.services import people
from tests.access.house import House, build
from tests.access.reviewed import reviewed
from tests.api.conftest import start_server, stop_server
from tests.browser.conftest import ARGUMENTS, chromium
from tests.browser.furniture import PASSWORD, Scene, furnish, simulators

SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
WIDTH, HEIGHT, NARROW, SCALE = 1200, 750, 390, 0.7
SHORT = {"": "overview", "keys-service-environment": "key", "rotations-rotation_id": "rotation"}
NARROW_TOO = ("overview", "matrix", "key", "rotation")
# Forms that look like the one for aborting, and pages that only say so.
ALIKE = re.compile(
    r"/rotations/\{rotation_id\}/(advance|approve|confirm|emergency|evidence|extend|force|pause|resume|remind)"
    r"|/emergency/\{run_id\}/(stop|resume)|/accounts/(?!2fa/$)"
    r"|/(channels|policies|team)/.+/remove/|/consumers/.+/rotate/|/admin/.+|/livez|/readyz|/metrics|/v1/(?!docs)"
)
MOST_BYTES = 6_000_000


def pages(house: House) -> dict[str, tuple[str, str]]:
    """Name of the picture -> who looks, and the path: every screen that a lead or an administrator opens."""
    found = {}
    for line in reviewed():
        who = next((user for caller, user in LOOKERS if line[caller] == "200"), "")
        if line["method"] == "GET" and who and not ALIKE.match(line["route"].partition("?")[0]):
            name = re.sub(r"[^a-z0-9_-]+", "-", line["route"].replace("{", "").replace("}", "")).strip("-")
            found[SHORT.get(name, name)] = (who, house.path(line["route"]))
    return found


LOOKERS = (("lead", "lena"), ("admin", "ada"))


def inhabited(scenes: dict[str, Scene]) -> House:
    """One of everything, and where the furniture has it, the livelier one."""
    house = build(clock.now())
    people.set_member(SYSTEM, house.team, username="lena", role=Role.LEAD, now=clock.now())
    shifting = str(scenes["shifting"].rotation.id)
    house.names |= {
        " service": "background-removal",
        "/rotations rotation_id": shifting,
        "/consumers slug": "render-farm",
        "/rotations/{rotation_id}/supply rotation_id": str(scenes["waiting"].rotation.id),
        "/keys/{service}/{environment}/rotate environment": "staging",
    }  # fmt: skip
    return house


def keep_alive(scenes: dict[str, Scene]) -> None:
    """Traffic up to this moment, so that shares and the health strip are those of a living day."""
    for name in ("shifting", "monitoring"):
        scene = scenes[name]
        scene.lively((clock.now() - scene.now).total_seconds() - 9)
    Heartbeat.objects.update_or_create(name="beat", defaults={"at": clock.now()})


def enter(browser: Browser, origin: str, username: str) -> Page:
    """A page of somebody who has signed in and confirmed who they are."""
    size: ViewportSize = {"width": WIDTH, "height": HEIGHT}
    page = browser.new_context(viewport=size, device_scale_factor=SCALE, reduced_motion="reduce").new_page()
    page.goto(f"{origin}/accounts/login/")
    page.fill("#id_login", username)
    for path in ("", "/accounts/reauthenticate/"):
        if path:
            page.goto(origin + path)
        page.fill("#id_password", PASSWORD)
        page.click("main button[type=submit]")
        page.wait_for_url(f"{origin}/")
    return page


def shoot(browser: Browser, origin: str, scenes: dict[str, Scene], target: Path) -> None:
    house = inhabited(scenes)
    seats = {username: enter(browser, origin, username) for _, username in LOOKERS}
    for name, (username, path) in pages(house).items():
        keep_alive(scenes)
        page = seats[username]
        page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
        page.goto(origin + path)
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            page.screenshot(path=target / f"{name}-{scheme}.png")
            if name in NARROW_TOO:
                page.set_viewport_size({"width": NARROW, "height": HEIGHT})
                page.screenshot(path=target / f"{name}-{scheme}-{NARROW}.png")
                page.set_viewport_size({"width": WIDTH, "height": HEIGHT})


def main(target: Path) -> None:
    path = chromium()
    if path is None:
        raise SystemExit("no Chromium found")
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("*.png"):
        old.unlink()
    setup_test_environment()  # the house signs its people in with the test client
    data = Path(settings.KEYTURN_DATA)
    call_command("migrate", verbosity=0)
    with simulators("removit", "removebgvideo", "backgrounderase", "backgroundcut") as running:
        scenes = furnish(running, settings, clock.now())
        process, port = start_server(data, {"KEYTURN_DATA": str(data)})
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
                shoot(browser, f"http://127.0.0.1:{port}", scenes, target)
                browser.close()
        finally:
            stop_server(process)
    shutil.rmtree(data.parent)
    size = sum(picture.stat().st_size for picture in target.glob("*.png"))
    if size > MOST_BYTES:
        raise SystemExit(f"The pictures take {size} bytes; {MOST_BYTES} is the most.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
