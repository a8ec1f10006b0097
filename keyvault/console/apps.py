"""An app of its own, so that Django finds the console's static files and template tags."""

from django.apps import AppConfig


class ConsoleConfig(AppConfig):
    name = "keyvault.console"
    label = "keyturn_console"
