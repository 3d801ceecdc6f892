"""Each idiom leaves behind what an H100 left behind, by the idiom's rule; so the lane means what a GPU means."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import triton
from torch import Tensor

from diffgdn import lane
from idioms import judge, record
from idioms.registry import IDIOMS, Idiom

for theme in record.THEMES:
    importlib.import_module(f"idioms.{theme}")

RECORD: dict[str, Any] = json.loads((Path(__file__).parent / "record.json").read_text())
VERSION = tuple(int(part) for part in triton.__version__.split(".")[:2])
DEVICE = "cuda" if lane.detect() == "gpu" else "cpu"


def refused(idiom: Idiom) -> str:
    """What the error must say, where this version or the interpreter cannot run the kernel at all."""
    if idiom.removed and idiom.removed <= VERSION:
        return "removed"
    return idiom.raises if DEVICE == "cpu" else ""


def of_the_gpu(idiom: Idiom) -> list[Tensor]:
    texts = RECORD["idioms"][idiom.name]["outputs"]
    return [judge.from_text(text, out) for text, out in zip(texts, idiom.outputs, strict=True)]


@pytest.mark.parametrize("name", IDIOMS)
def test_results_are_those_of_the_gpu(name: str) -> None:
    idiom, recorded = IDIOMS[name], RECORD["idioms"][name]
    if word := refused(idiom):
        with pytest.raises(Exception, match=word) as raised:
            idiom.run(DEVICE)
        assert "\n" not in record.error_line(raised.value)
        return
    found = idiom.run(DEVICE)
    if "error" not in recorded:
        assert judge.complaint(idiom, found, of_the_gpu(idiom)) == ""
    truths = idiom.truths()
    if truths is not None:
        assert judge.complaint(idiom, found, truths) == ""


def test_the_record_is_of_these_idioms() -> None:
    assert sorted(RECORD["idioms"]) == sorted(IDIOMS)


@pytest.mark.parametrize("name", [name for name, one in IDIOMS.items() if one.truth])
def test_the_gpu_agrees_with_the_truth(name: str) -> None:
    """No interpreter: the documented errors hold on hardware, and no truth is wrong."""
    idiom, recorded = IDIOMS[name], RECORD["idioms"][name]
    if "error" in recorded:
        pytest.skip(recorded["error"])
    truths = idiom.truths()
    assert truths is not None
    assert judge.complaint(idiom, of_the_gpu(idiom), truths) == ""
