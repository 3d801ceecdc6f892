"""requirements.lock holds what pyproject.toml asks for, whole and with hashes, and no build of torch."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CHOSEN_BY_SETUP = {"torch", "triton"}
EXTRAS = ("test", "lint", "docs", "coverage")
PYTHONS = ("3.11.0", "3.12.0", "3.13.0", "3.14.0")
ASKED = [
    Requirement(line)
    for line in (
        *PROJECT["dependencies"],
        *(line for name in EXTRAS for line in PROJECT["optional-dependencies"][name]),
    )
]


def pins() -> list[tuple[Requirement, int]]:
    """Every pin, and how many hashes it has."""
    blocks = re.split(r"^(?=\w)", LOCK, flags=re.MULTILINE)[1:]
    return [(Requirement(block.split("\\")[0].strip()), block.count("--hash=sha256:")) for block in blocks]


PINS = pins()


def test_every_pin_is_one_version_with_hashes() -> None:
    assert len(PINS) > 40
    for pin, hashes in PINS:
        assert [specifier.operator for specifier in pin.specifier] == ["=="]
        assert hashes > 0, pin.name


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_what_is_asked_for_is_pinned_to_a_version_that_fits(asked: Requirement, python: str) -> None:
    """Once for each Python. `make lock` makes it so again after a change of pyproject.toml."""
    here = {"python_full_version": python, "python_version": python.rpartition(".")[0]}
    versions = [
        next(iter(pin.specifier)).version
        for pin, _ in PINS
        if canonicalize_name(pin.name) == canonicalize_name(asked.name)
        and (pin.marker is None or pin.marker.evaluate(here))
    ]
    if asked.name in CHOSEN_BY_SETUP:
        assert versions == []
    else:
        assert len(versions) == 1
        assert asked.specifier.contains(versions[0])


def test_no_cuda_and_no_address_is_in_it() -> None:
    strange = {pin.name for pin, _ in PINS if re.match(r"cuda|nvidia-(?!ml-py)", pin.name)}
    assert strange == set()
    assert "://" not in LOCK
    assert "--index" not in LOCK
