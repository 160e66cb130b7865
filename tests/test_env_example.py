"""`.env.example` names every variable that a process reads, and no other."""

import importlib
import pkgutil
from pathlib import Path

import pytest
from pydantic import AliasChoices

from boostedcalls.common.settings import Settings
from boostedcalls.devkit.environment import setting_names

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGES = ("common", "gateway", "contacts", "calls", "webhooks", "simulator")
# Read by make run and docker compose themselves.
OUTSIDE = {"NATS_SUBSCRIBER_PASSWORD", "NATS_SYSTEM_PASSWORD", "BOOSTEDCALLS_HOME", "PUBLISH_ADDRESS"}


def subclasses(cls: type) -> set[type]:
    direct = set(cls.__subclasses__())
    return direct.union(*(subclasses(child) for child in direct))


def variables(cls: type[Settings]) -> set[str]:
    names = set()
    for name, field in cls.model_fields.items():
        alias = field.validation_alias
        names.add(str(alias.choices[0]) if isinstance(alias, AliasChoices) else str(alias or name))
    return {name.upper() for name in names}


@pytest.fixture(scope="module")
def settings() -> set[type[Settings]]:
    for name in PACKAGES:
        package = importlib.import_module(f"boostedcalls.{name}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    # Other tests in this process may have made classes of their own.
    return {cls for cls in subclasses(Settings) if cls.__module__.startswith("boostedcalls.")}


def test_every_variable_is_in_the_example_and_nothing_else(settings):
    assert len(settings) >= 7
    assert setting_names(CHECKOUT) - OUTSIDE == set().union(*(variables(cls) for cls in settings))


def test_every_variable_has_a_comment_of_its_own():
    lines = (CHECKOUT / ".env.example").read_text().splitlines()
    names = setting_names(CHECKOUT)
    for number, line in enumerate(lines):
        if line.removeprefix("# ").split("=")[0] in names:
            above = lines[number - 1]
            assert above.startswith("# "), line
            assert above.removeprefix("# ").split("=")[0] not in names, line


def test_the_defaults_shown_are_the_real_ones(settings):
    """A commented line shows what happens without it."""
    defaults = {}
    for cls in settings:
        for name, field in cls.model_fields.items():
            value = field.default
            text = (
                ",".join(f"{part:g}" if isinstance(part, float | int) else part for part in value)
                if isinstance(value, tuple)
                else str(value)
            )
            defaults[name.upper()] = text.lower() if isinstance(value, bool) else text
    for line in (CHECKOUT / ".env.example").read_text().splitlines():
        name, _, shown = line.removeprefix("# ").partition("=")
        if line.startswith("# ") and name in defaults:
            real = defaults[name]
            assert shown == real or float(shown) == float(real), name
