from django.apps import AppConfig


class RotationConfig(AppConfig):
    name = "rotation"
    verbose_name = "Rotation"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from rotation import checks, engine, tasks
        from rotation.notices import writing
        from rotation.services import channels, personal, telling

        checks.install()
        engine.hang_bell(tasks.ring)
        writing.hang_bell(tasks.ring_channel)
        channels.join_sealed_rows()
        telling.join_audit()
        personal.join_audit()
