"""A serving loop around the operations of the target that --diffgdn-target names: every request against its
own history, after every step."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from hypothesis import settings

from diffgdn.campaign.serving_session import Session
from diffgdn.cases.operations import FAMILIES
from diffgdn.findings.corpus import Corpus
from diffgdn.report import finding_lines as findings

pytestmark = pytest.mark.explores

SHARE = 4  # of the examples of the profile: a trace takes the time of a dozen cases
MOST_SECONDS = 10.0  # on the backend of Triton's interpreter; a shrink of a failure comes on top


@pytest.mark.parametrize("family", FAMILIES)
def test_requests_keep_what_is_theirs(
    family: str, request: pytest.FixtureRequest, diffgdn_backend: str, tmp_path: Path
) -> None:
    config = request.config
    seed = zlib.crc32(str(config.getoption("--hypothesis-seed", None)).encode())
    target = config.getoption("--diffgdn-target")
    corpus = Corpus(Path(config.getoption("--diffgdn-corpus")))
    hang_seconds = config.getoption("--diffgdn-hang-after")
    with Session(target, diffgdn_backend, None, tmp_path / "child.log", seed, hang_seconds) as session:
        missing = session.missing(family)
        if missing is not None:
            pytest.skip(missing)
        finding = session.search(
            family,
            seed,
            max_traces=max(1, settings().max_examples // SHARE),
            max_seconds=MOST_SECONDS,
            save=corpus,
            say=print,
        )
        ended, missed = session.traces, session.unreached(family, MOST_SECONDS)
    if not ended and finding is None:
        pytest.fail(f"no trace ended: {next(iter(missed.values()))}", pytrace=False)
    if finding is not None:
        path = corpus.path / f"{finding.id}.json"
        pytest.fail("\n".join(findings.lines(finding, path)), pytrace=False)
