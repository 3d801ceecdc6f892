"""Where the parts of a joint campaign run, as the campaign sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from diffgdn.campaign.joint.part_messages import Start
from diffgdn.findings.finding import Finding


class Seats(Protocol):
    """Places for parts, which come and go: a GPU each, or in the interpreter the cores of a machine."""

    def free(self) -> Sequence[str]:
        """List the seats that are there now and have no part, by name."""

    def start(self, seat: str, start: Start) -> None:
        """Start a part in a free seat. One that cannot start is lost: `receive` says so."""

    def receive(self, seconds: float) -> Sequence[tuple[str, Any]]:
        """Return what parts have sent, with their seats, waiting so long for the first to send: events,
        Files, and the last of each Ended or Lost."""

    def tell(self, seat: str, finding: Finding) -> None:
        """Send a part what another one has found."""

    def interrupt(self) -> None:
        """Have all parts end as Ctrl-C does."""

    def close(self) -> None:
        """End what is left of them, and let go of the machines."""
