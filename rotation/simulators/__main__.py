"""Serve all four simulators until the process is told to stop.

Prints one JSON object on standard output once all of them listen: `{"removit": "http://127.0.0.1:8801",
...}`.
"""

import argparse
import json
import signal
import sys
import threading

from rotation.simulators import SIMULATORS, start


def main() -> int:
    """Serve; 0 after SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m rotation.simulators", description=__doc__)
    parser.add_argument("--port-base", type=int, default=0, help="first of four ports; 0 takes free ones")
    parser.add_argument("--host", default="127.0.0.1")
    options = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    servers = {
        kind: start(kind, host=options.host, port=options.port_base + index if options.port_base else 0)
        for index, kind in enumerate(SIMULATORS)
    }
    sys.stdout.write(json.dumps({kind: server.base_url for kind, server in servers.items()}) + "\n")
    sys.stdout.flush()
    stop.wait()
    for server in servers.values():
        server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
