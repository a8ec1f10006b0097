"""What the figures were measured on and with, without saying whose machine it is."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import psutil


def describe(folder: Path) -> dict[str, str]:
    """Cores, memory, kernel, the file system of ``folder``, the Python packages that matter."""
    return {
        "processor": f"{len(os.sched_getaffinity(0))} cores, {_processor()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "file system": _file_system(folder),
        "Python": platform.python_version(),
        "granian": version("granian"),
        "psycopg": version("psycopg"),
        "Keyturn": version("keyturn") + _commit(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, told = line.partition(":")
        if name.strip() == "model name":
            return told.strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    """The type of the file system that holds the databases: on tmpfs nothing is durable."""
    best = ("", "unknown")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        mount, kind = line.split()[1:3]
        if folder.is_relative_to(mount) and len(mount) >= len(best[0]):
            best = (mount, kind)
    return best[1]


def _commit() -> str:
    """The commit that is checked out, in brackets, with a + for changes; "" outside of a checkout."""
    here = Path(__file__).parent
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    )
    return f" ({told.stdout.strip()})" if told.returncode == 0 else ""


def lines(shape: Mapping[str, str]) -> list[str]:
    return [f"- {name}: {told}" for name, told in shape.items()]
