"""Chromium in front of a real server.

These tests carry the mark ``browser``. Without a Chromium they are deselected with a word in the summary;
in continuous integration (``CI=true``) they fail instead, because there nobody reads a summary.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from playwright.sync_api import Browser, BrowserContext, Page, Response, expect, sync_playwright
from pytest_django import DjangoDbBlocker

from keyvault import clock
from keyvault.crypto.keyring import Keyring
from keyvault.models import Heartbeat
from rotation.simulators import RunningSimulator
from tests.api.conftest import Server, _new_database, _pointed_at, start_server, stop_server
from tests.browser.furniture import PASSWORD, Scene, furnish, simulators
from tests.migrated import migrate

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 60_000  # milliseconds, with a page; a busy machine is slow
MISSING = "no Chromium found: install one, or name it in KEYTURN_TEST_CHROMIUM"


def chromium() -> str | None:
    """Where the browser is."""
    named = os.environ.get("KEYTURN_TEST_CHROMIUM")
    if named:
        return named if Path(named).is_file() else None
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() == "true"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "browser: drives Chromium against a real server")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)
    if chromium() is not None or in_ci():
        return
    dropped = [item for item in items if item.get_closest_marker("browser")]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if not item.get_closest_marker("browser")]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if chromium() is None and not in_ci():
        terminalreporter.write_line(f"browser tests were deselected: {MISSING}", yellow=True)


@pytest.fixture(scope="package")
def site(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory, django_db_blocker: DjangoDbBlocker
) -> Iterator[Server]:
    """A server of its own with a database of its own. The browser comes first: without it, fail at once."""
    data = tmp_path_factory.mktemp("browser") / "data"
    data.mkdir(mode=0o700)
    Keyring.create_file(data / "keyring.json", ["dev", "staging", "prod", "system"])
    database, url = _new_database(data)
    with django_db_blocker.unblock(), _pointed_at(database, data / "keyring.json"):
        migrate()
    environment = {"KEYTURN_DATA": str(data), "DATABASE_URL": url, "KEYTURN_HEARTBEAT_MAX_AGE": "3600"}
    process, port = start_server(data, environment)
    yield Server(port, data, database, data / "server.log")
    stop_server(process)


@pytest.fixture(scope="package")
def running() -> Iterator[dict[str, RunningSimulator]]:
    with simulators("removit", "removebgvideo", "backgrounderase", "backgroundcut") as started:
        yield started


@pytest.fixture(scope="package")
def scenes(
    site: Server, running: dict[str, RunningSimulator], django_db_blocker: DjangoDbBlocker
) -> Iterator[dict[str, Scene]]:
    before = django_settings.KEYTURN_EGRESS_ALLOW
    with django_db_blocker.unblock(), _pointed_at(site.database, site.keyring):
        found = furnish(running, django_settings, clock.now())
        Heartbeat.objects.update_or_create(name="beat", defaults={"at": clock.now()})
    yield found
    django_settings.KEYTURN_EGRESS_ALLOW = before


@pytest.fixture
def house(
    site: Server, scenes: dict[str, Scene], django_db_blocker: DjangoDbBlocker
) -> Iterator[dict[str, Scene]]:
    """The furnished scenes, with this process pointed at the server's database for one test."""
    with django_db_blocker.unblock(), _pointed_at(site.database, site.keyring):
        yield scenes


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    # Not for the session: while Playwright runs, its event loop runs in this thread, and no other may.
    path = chromium()
    if path is None:
        pytest.fail(MISSING)
    # Playwright keeps an event loop in this thread, in which Django would refuse to use its database.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    with sync_playwright() as playwright:
        expect.set_options(timeout=PATIENCE)
        started = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS), timeout=2 * PATIENCE)
        yield started
        started.close()
    del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


@dataclass
class Visitor:
    """One person at one browser; it remembers everything that went wrong on the way."""

    page: Page
    origin: str
    complaints: list[str] = field(default_factory=list)
    expected: set[int] = field(default_factory=set)  # error statuses that a test means to see

    def watch(self) -> None:
        self.page.on("console", lambda message: self._console(message.type, message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(f"script: {error}"))
        self.page.on("response", self._response)

    def _console(self, kind: str, text: str) -> None:
        # The browser repeats an error status on its console; the status itself is judged below.
        if kind in ("error", "warning") and not text.startswith("Failed to load resource"):
            self.complaints.append(f"{kind}: {text}")

    def _response(self, response: Response) -> None:
        if response.status >= 400 and response.status not in self.expected:
            self.complaints.append(f"{response.status} {response.request.method} {response.url}")

    def open(self, path: str) -> Response:
        answer = self.page.goto(self.origin + path)
        assert answer is not None
        return answer

    def sign_in(self, username: str, password: str = PASSWORD) -> None:
        self.open("/accounts/login/")
        self.page.fill("#id_login", username)
        self.page.fill("#id_password", password)
        self.page.click("main button[type=submit]")

    def confirm_password(self) -> None:
        """The page that asks for the password again."""
        self.page.wait_for_url("**/accounts/reauthenticate/**")
        self.page.fill("#id_password", PASSWORD)
        self.page.click("main button[type=submit]")


Visit = Callable[..., Visitor]


@pytest.fixture
def visit(browser: Browser, site: Server) -> Iterator[Visit]:
    """``visit("lena", scheme="dark", width=390)``: a fresh browser in which this person has signed in."""
    contexts: list[BrowserContext] = []
    visitors: list[Visitor] = []

    def make(
        username: str = "", *, scheme: Any = "light", width: int = 1280, scripts: bool = True
    ) -> Visitor:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            java_script_enabled=scripts,
            reduced_motion="reduce",
        )
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        visitor = Visitor(context.new_page(), f"http://127.0.0.1:{site.port}")
        visitor.watch()
        visitors.append(visitor)
        if username:
            visitor.sign_in(username)
            visitor.page.wait_for_url(visitor.origin + "/")
        return visitor

    yield make
    for context in contexts:
        context.close()
    for visitor in visitors:
        assert visitor.complaints == []
