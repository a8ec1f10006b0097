"""The four providers that Keyturn was built for, as real HTTP servers on loopback with ground truth.

For tests and the demo. `with running("removit") as sim:` serves one in this process, `python -m
rotation.simulators` serves all four, and SimulatorClient drives them from anywhere.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from keyvault.crypto.secret import Secret
from rotation.simulators.backgroundcut import BackgroundCut
from rotation.simulators.backgrounderase import BackgroundErase
from rotation.simulators.base import Simulator
from rotation.simulators.client import ControlError, SimulatorClient
from rotation.simulators.control import respond
from rotation.simulators.management import management_config
from rotation.simulators.removebgvideo import RemoveBGVideo
from rotation.simulators.removit import Removit
from rotation.simulators.truth import CreatedKey, KeyView
from rotation.simulators.wire import Server

__all__ = [
    "SIMULATORS", "ControlError", "CreatedKey", "KeyView", "RunningSimulator", "Simulator", "SimulatorClient",
    "management_config", "running", "start",
]  # fmt: skip

SIMULATORS: Final[dict[str, type[Simulator]]] = {
    simulator.slug: simulator for simulator in (BackgroundErase, Removit, RemoveBGVideo, BackgroundCut)
}


@dataclass(frozen=True)
class RunningSimulator:
    """A simulator that listens; `control` is the simulator itself."""

    base_url: str
    host_port: str  # for the egress allow-list
    control: Simulator
    server: Server

    @property
    def admin_secret(self) -> Secret:
        """What its management API asks for."""
        return self.control.admin_secret

    def stop(self) -> None:
        """Stop listening, and let held requests go."""
        self.server.stopping.set()
        self.server.shutdown()
        self.server.server_close()


def start(
    kind: str,
    *,
    port: int = 0,
    host: str = "127.0.0.1",
    admin_secret: Secret | None = None,
    clock: Callable[[], float] = time.time,
) -> RunningSimulator:
    """Serve one provider from a thread; port 0 takes a free one. Raises KeyError for an unknown kind, and
    OSError.
    """
    simulator = SIMULATORS[kind](admin_secret=admin_secret, clock=clock)
    server = Server(host, port, partial(respond, simulator))
    thread = threading.Thread(
        target=server.serve_forever, args=(0.05,), name=f"simulator-{kind}", daemon=True
    )
    thread.start()
    host_port = f"{host}:{server.server_port}"
    return RunningSimulator(f"http://{host_port}", host_port, simulator, server)


@contextmanager
def running(
    kind: str,
    port: int = 0,
    *,
    admin_secret: Secret | None = None,
    clock: Callable[[], float] = time.time,
) -> Iterator[RunningSimulator]:
    """Serve one provider while the block runs."""
    simulator = start(kind, port=port, admin_secret=admin_secret, clock=clock)
    try:
        yield simulator
    finally:
        simulator.stop()
