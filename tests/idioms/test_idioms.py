"""Each idiom leaves behind what an H100 left behind, by the idiom's rule: the backend means what a GPU
means."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest
from torch import Tensor

from diffgdn.backend import interpreter, selection
from idioms import judge, record
from idioms.registry import IDIOMS, VERSION, Idiom

for theme in record.THEMES:
    importlib.import_module(f"idioms.{theme}")

RECORD: dict[str, Any] = json.loads(record.RECORD.read_text())
DEVICE = "cuda" if selection.detect() == "gpu" else "cpu"


def refusal(idiom: Idiom) -> str:
    """What the error says where this Triton, or the interpreter, cannot run the kernel at all; else empty."""
    if idiom.removed and idiom.removed <= VERSION:
        return "removed"
    return idiom.raises if DEVICE == "cpu" else ""


def of_the_gpu(idiom: Idiom) -> list[Tensor] | None:
    """What an H100 left behind; None of an idiom that was written after the record."""
    if idiom.name not in RECORD["idioms"]:
        return None
    texts = RECORD["idioms"][idiom.name]["outputs"]
    return [judge.from_text(text, out) for text, out in zip(texts, idiom.outputs, strict=True)]


@pytest.mark.filterwarnings("ignore:.*deprecated:UserWarning")  # by Triton, of what people still write
@pytest.mark.parametrize("name", IDIOMS)
def test_results_are_those_of_the_gpu(name: str) -> None:
    idiom = IDIOMS[name]
    if said := refusal(idiom):
        with pytest.raises(Exception, match=said) as raised:
            idiom.run(DEVICE)
        assert "\n" not in interpreter.explain(str(raised.value))
        assert "Triton" in interpreter.explain(str(raised.value))  # in plain words
        return
    recorded, truths = of_the_gpu(idiom), idiom.truths()
    if recorded is None and truths is None:
        pytest.skip("not in the record yet, and only a GPU knows: python tests/idioms/record.py")
    found = idiom.run(DEVICE)
    if recorded is not None and idiom.rule.exact and not (idiom.changed and idiom.changed <= VERSION):
        assert judge.complaint(idiom, found, recorded) == ""
    if truths is not None:
        assert judge.complaint(idiom, found, truths) == ""


def test_the_gpu_agrees_with_the_truths() -> None:
    """The documented errors hold on hardware; so what lies within them of a truth is what a GPU may do."""
    said = {
        name: judge.complaint(idiom, recorded, truths)
        for name, idiom in IDIOMS.items()
        if idiom.changed is None
        and (recorded := of_the_gpu(idiom)) is not None
        and (truths := idiom.truths()) is not None
    }
    assert {name: line for name, line in said.items() if line} == {}


def test_the_record_is_of_these_idioms() -> None:
    assert set(RECORD["idioms"]) <= set(IDIOMS)
    assert [name for name, one in RECORD["idioms"].items() if "outputs" not in one] == []


def test_every_rule_is_one_that_can_be_broken() -> None:
    """No recorded result passes with all its bits flipped."""
    for name in RECORD["idioms"]:
        recorded = of_the_gpu(IDIOMS[name])
        assert recorded is not None
        flipped = [judge.flipped(tensor) for tensor in recorded]
        assert judge.complaint(IDIOMS[name], flipped, IDIOMS[name].truths() or recorded), name
