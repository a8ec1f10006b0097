"""manage.py rewrap: the same as ``keyturn kek rewrap``."""

from __future__ import annotations

from keyvault.project import kek_cli
from keyvault.project.management.commands import kek


class Command(kek.Command):
    help = "Wrap every data key under the primary KEK of its environment. The same as `keyturn kek rewrap`."
    words = kek_cli.rewrap
