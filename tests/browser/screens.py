"""Draw the pictures of the documentation anew: ``python -m tests.browser.screens docs/screens``.

The same furniture as in the tests, in a database of its own that is thrown away afterwards.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import django

import tests.bootstrap  # noqa: F401  prepares the environment before Django reads its settings

# ruff: noqa: E402  nothing of Django may be imported before this point
os.environ["KEYTURN_HEARTBEAT_MAX_AGE"] = "3600"
os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
os.environ["KEYTURN_LOG_LEVEL"] = "ERROR"
django.setup()

from django.conf import settings
from django.core.management import call_command
from playwright.sync_api import Browser, Page, sync_playwright

from keyvault import clock
from keyvault.models import Heartbeat
from tests.api.conftest import start_server, stop_server
from tests.browser.conftest import ARGUMENTS, chromium
from tests.browser.furniture import PASSWORD, Scene, furnish, simulators

LOOKS = (("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390))


def pages(scenes: dict[str, Scene]) -> dict[str, str]:
    return {
        "overview": "/",
        "matrix": "/matrix/",
        "key": "/keys/background-removal/prod/",
        "rotation": f"/rotations/{scenes['shifting'].rotation.id}/",
    }


def keep_alive(scenes: dict[str, Scene]) -> None:
    """Traffic up to this moment, so that shares and the health strip are those of a living day."""
    for name in ("shifting", "monitoring"):
        scene = scenes[name]
        scene.lively((clock.now() - scene.now).total_seconds() - 9)
    Heartbeat.objects.update_or_create(name="beat", defaults={"at": clock.now()})


def shoot(browser: Browser, origin: str, scenes: dict[str, Scene], target: Path) -> None:
    for scheme, width in LOOKS:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if scheme == "dark" else "light",
        )
        page: Page = context.new_page()
        page.goto(f"{origin}/accounts/login/")
        page.fill("#id_login", "lena")
        page.fill("#id_password", PASSWORD)
        page.click("main button[type=submit]")
        page.wait_for_url(f"{origin}/")
        for name, path in pages(scenes).items():
            keep_alive(scenes)
            page.goto(origin + path)
            page.wait_for_function("!document.querySelector('time').textContent.includes('UTC')")
            suffix = "" if width == 1280 else f"-{width}"
            page.screenshot(path=target / f"{name}-{scheme}{suffix}.png")
        context.close()


def main(target: Path) -> None:
    path = chromium()
    if path is None:
        raise SystemExit("no Chromium found")
    target.mkdir(parents=True, exist_ok=True)
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


if __name__ == "__main__":
    main(Path(sys.argv[1]))
