from django.apps import AppConfig


class KeyvaultConfig(AppConfig):
    name = "keyvault"
    verbose_name = "Custody and delivery"
    default_auto_field = "django.db.models.BigAutoField"
