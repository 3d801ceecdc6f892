"""A serving loop around the operations of the target that --diffgdn-target names: every request against its
own history, after every step."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from hypothesis import settings

from diffgdn import campaign, targets
from diffgdn.cases.operations import FAMILIES
from diffgdn.report import finding_lines as findings
from diffgdn.verdict.question import PlayTrace

pytestmark = pytest.mark.explores

SHARE = 4  # of the examples of the profile: a trace takes the time of a dozen cases
MOST_SECONDS = 10.0  # on the backend of Triton's interpreter; a shrink of a failure comes on top


@pytest.mark.parametrize("family", FAMILIES)
def test_requests_keep_what_is_theirs(
    family: str, request: pytest.FixtureRequest, diffgdn_backend: str
) -> None:
    given = request.config
    seed = zlib.crc32(str(given.getoption("--hypothesis-seed", None)).encode())
    target, loop = given.getoption("--diffgdn-target"), f"{family}.serving"
    if not PlayTrace.calls(loop, targets.get(target).operations):
        pytest.skip(f"{target} has nothing that a loop of {family} calls")
    config = campaign.Config(
        target,
        (loop,),
        diffgdn_backend,
        seed,
        workers=1,
        corpus=Path(given.getoption("--diffgdn-corpus")),
        max_time=MOST_SECONDS,
        max_cases=max(1, settings().max_examples // SHARE),
        hang_seconds=given.getoption("--diffgdn-hang-after"),
        mode=PlayTrace.mode,
    )
    outcome = campaign.run(config, lambda event: None)
    for finding in outcome.findings:
        path = config.corpus / f"{finding.id}.json"
        pytest.fail("\n".join(findings.lines(finding, path)), pytrace=False)
    if outcome.problem is not None and "not reached" not in outcome.problem:
        pytest.fail(outcome.problem, pytrace=False)
