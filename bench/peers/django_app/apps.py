"""The application, `calls` for short."""

from django.apps import AppConfig


class CallsConfig(AppConfig):
    name = "bench.peers.django_app"
    label = "calls"
    default_auto_field = "django.db.models.BigAutoField"
