"""What a page must be whatever it shows: accessible, and not wider than the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from axe_playwright_python.base import AXE_FILE_PATH
from playwright.sync_api import Page

if TYPE_CHECKING:
    from tests.browser.conftest import Visitor

LOOKS: tuple[tuple[Literal["light", "dark"], int], ...] = (("light", 1280), ("dark", 360))
DESK = 1200  # pixels; a table is not cut off where people work with it
CUT_OFF = """desk => innerWidth < desk ? [] : [...document.querySelectorAll(".scroll[aria-label]")]
  .filter(part => part.checkVisibility() && part.scrollWidth > part.clientWidth)
  .map(part => `${part.ariaLabel} is cut off: ${part.scrollWidth} of ${part.clientWidth} px`)"""
AXE = AXE_FILE_PATH.read_text(encoding="utf-8")


def look(page: Page, scheme: Literal["light", "dark"], width: int) -> None:
    """Show the page that is open in these colours and this wide; it is not loaded again."""
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})


def judged(page: Page) -> list[str]:
    """What axe objects to, and what is wider than the screen."""
    wrong = too_wide(page)
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE)
    found: dict[str, Any] = page.evaluate("axe.run({resultTypes: ['violations']})")
    for violation in found["violations"]:
        nodes = "; ".join(node["html"][:160] for node in violation["nodes"][:3])
        wrong.append(f"axe {violation['id']}: {nodes}")
    return wrong


def inspect(visitor: Visitor, what: str) -> list[str]:
    """What is wrong with the page that is open, under this name."""
    return [f"{what}: {found}" for found in judged(visitor.page)]


def too_wide(page: Page) -> list[str]:
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    found = [f"{wide} px wider than the screen"] if wide > 0 else []
    cut_off: list[str] = page.evaluate(CUT_OFF, DESK)
    return found + cut_off
