"""Known failures as a maintainer has them: found by a campaign, accepted as it says, then lived with.

The entries come out of shrinks, so that their conditions are those that `corpus accept` guesses. Everything
else about known failures is in tests/unit/test_known_failures.py.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from diffgdn.cli import run

TOYS = Path(__file__).parents[1] / "unit" / "known_toys.py"
OPERATIONS = ("gdn.decode", "kda.decode", "gdn.recurrent", "kda.recurrent", "gdn.update")
MENDED, PLANTED = "DIFFGDN_TEST_MENDED", "DIFFGDN_TEST_PLANTED"  # an operation each

pytestmark = pytest.mark.skipif(
    not os.environ.get("DIFFGDN_NIGHTLY"), reason="looked for at night: DIFFGDN_NIGHTLY=1"
)


def fuzz(seed: int, cases: int) -> tuple[int, dict[str, Any]]:
    """The exit status of a campaign on the ten faults, and its result."""
    given = ("--max-cases", str(cases), "--seed", str(seed), "--workers", "2", "--isolation", "none")
    target = ("--target", f"{TOYS}:ten", "--backend", "interpret", "--allow-unreached")
    return run(["fuzz", *target, *given, "--json", "r.json"]), json.loads(Path("r.json").read_text())


def test_ten_that_a_campaign_found_are_accepted_one_is_mended_one_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, told = fuzz(3, 300)
    assert status == 1
    found = Counter(one["operation"] for one in told["findings"])
    assert found == dict.fromkeys(OPERATIONS, 2)
    assert {one["shrink"] for one in told["findings"]} == {"complete"}
    ids = [one["id"] for one in told["findings"]]
    assert run(["corpus", "accept", *ids, "--reason", "see 7"]) == 0

    for seed in (4, 5):
        status, told = fuzz(seed, 200)
        assert (status, told["findings"], told["problem"]) == (0, [], None)
        assert len(told["known"]) == 10
        assert all(one["failed"] > 0 and not one["mended"] for one in told["known"])

    monkeypatch.setenv(MENDED, "kda.recurrent")
    status, told = fuzz(6, 200)
    assert (status, told["findings"]) == (1, [])
    (mended,) = [one for one in told["known"] if one["mended"]]
    assert (mended["operation"], mended["kind"]) == ("kda.recurrent", "beyond_bound")
    monkeypatch.delenv(MENDED)

    monkeypatch.setenv(PLANTED, "gdn.decode")
    status, told = fuzz(7, 200)
    assert status == 1
    assert not any(one["mended"] for one in told["known"])
    for one in told["findings"]:
        case = one["case"]
        assert (one["operation"], one["tensor"], case["l2norm"]) == ("gdn.decode", "o", False)
        assert case["HV"] > case["H"]
    assert told["findings"]
