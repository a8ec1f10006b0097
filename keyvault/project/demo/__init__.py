"""``keyturn demo``: Keyturn, four simulated providers and their consumers, and what they see of rotations.

Everything here goes the way that users go: the HTTP API, the console script, real keys at (simulated)
providers. Keyturn runs as a process of its own and knows of no demo; only its policy's times are short.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from keyvault.project.demo.pace import Pace
from keyvault.project.demo.play import Play, print_result
from keyvault.project.demo.screen import Screen
from keyvault.project.demo.serving import free_port, is_free
from keyvault.project.demo.trouble import DemoError
from keyvault.project.files import default_data_dir, ensure_private_dir

__all__ = ["run"]


def run(data: Path | None, port: int, once: bool, as_json: bool, speed: float) -> int:
    """Run the demo; returns the exit code: 0 where everything was as it should be, 1 where not.

    ``data`` must be empty; None makes a directory that is deleted in the end unless something went wrong.
    ``port`` 0 takes a free one, and with ``once`` a taken one is only a wish. ``speed`` 1 is the usual
    pace. Without ``once`` it stays until it is interrupted. People read standard error; ``as_json``
    prints one object on standard output.
    """
    screen = Screen(sys.stderr)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        pace = Pace(speed)
        chosen = _port(port, once, screen)
        folder = _data_directory(data)
    except (DemoError, ValueError) as error:
        screen.say(str(error))
        return 1
    play = Play(folder, chosen, pace, screen)
    code = 1
    try:
        code = _perform(play, screen, once=once, as_json=as_json)
    except DemoError as error:
        screen.keep()
        screen.say(f"The demo has failed. {error}")
    except KeyboardInterrupt:
        screen.keep()
        screen.say("\nStopping ...")
        code = 130
    finally:
        play.close()
    if code != 1 and data is None:
        shutil.rmtree(folder)
    elif code == 1:
        screen.say(f"Logs and data are in {folder}")
    return code


def _perform(play: Play, screen: Screen, *, once: bool, as_json: bool) -> int:
    result = play.perform()
    print_result(result, screen, sys.stdout if as_json else None)
    problems = result.problems()
    for problem in problems:
        screen.say(f"NOT AS IT SHOULD BE: {problem}")
    for failure in play.failures():
        screen.say(f"    {failure}")
    for cause, times in play.unanswered().items():
        screen.say(f"Worth a look: {cause}, {times} times. The consumers went on with the keys they held.")
    code = 1 if problems else 0
    if not once:
        try:
            play.stay()
        except KeyboardInterrupt:
            screen.say("\nStopping ...")
    return code


def _port(port: int, once: bool, screen: Screen) -> int:
    """The port to use. A demo that ends by itself has no address that anybody must know."""
    if once and not is_free(port):
        other = free_port(0)
        screen.say(f"Port {port} is taken by another program; using {other}.")
        return other
    return free_port(port)


def _data_directory(data: Path | None) -> Path:
    if data is None:
        parent = ensure_private_dir(default_data_dir() / "demo")
        return Path(tempfile.mkdtemp(prefix="run-", dir=parent))
    if data.exists() and any(data.iterdir()):
        raise DemoError(f"{data} is not empty. The demo wants a directory of its own.")
    return ensure_private_dir(data.absolute())


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
