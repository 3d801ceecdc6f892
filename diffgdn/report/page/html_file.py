"""Write a campaign, or a replay, as one HTML file when it ends."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

from diffgdn.campaign.events import CampaignEnded, Event, ReplayEnded
from diffgdn.report.file_report import FileReport
from diffgdn.report.overview import Overview, Watch
from diffgdn.report.page import render
from diffgdn.report.page.bars import chart

MOST_FINDINGS = 100  # with all their parts; of the others the page has a line


class HtmlFile(FileReport):
    """Leave a page that stands alone: a listener."""

    def __init__(self, path: Path) -> None:
        """Take the path of the page."""
        super().__init__(path)
        self._watch = Watch()

    def __call__(self, event: Event) -> None:
        """Add an event up; write the page when the run ends."""
        self._watch(event)
        if isinstance(event, CampaignEnded | ReplayEnded):
            self.write(html(self._watch.overview()))


def html(overview: Overview) -> str:
    """Make the page."""
    return render(
        "run.html",
        run=overview,
        shown=overview.findings[:MOST_FINDINGS],
        others=overview.findings[MOST_FINDINGS:],
        images={
            one.id: b64encode(one.image).decode()
            for one in overview.findings[:MOST_FINDINGS]
            if one.image is not None
        },
        charts={name: chart(one.shares, one.worst) for name, one in overview.operations.items()},
    )
