"""What a joint campaign sends to its parts, and what they answer, apart from events."""

from __future__ import annotations

from dataclasses import dataclass

from diffgdn.campaign.config import Config, Outcome
from diffgdn.findings.finding import Finding


@dataclass(frozen=True)
class Start:
    """The first message to a part. config: its campaign; workers: as there, or as many as suit the machine.
    old: findings to replay.
    """

    config: Config
    own_workers: bool
    old: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Files:
    """What lies beside a finding's JSON: content by suffix, such as `.py`."""

    finding: str
    contents: dict[str, bytes]


@dataclass(frozen=True)
class Ended:
    """A part has come to its end. The last message of one that was not lost."""

    outcome: Outcome


@dataclass(frozen=True)
class Lost:
    """A part is gone with its machine, or has ended as it should not. The last message of its seat."""

    reason: str
