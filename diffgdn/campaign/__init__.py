"""A campaign: many cases of many operations on one target, over worker processes, told about in events.

The process that runs a campaign imports neither torch nor a kernel: a kernel that kills its process kills a
worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffgdn.campaign.config import Config as Config
    from diffgdn.campaign.config import Outcome as Outcome
    from diffgdn.campaign.engine import run as run

__all__ = ["Config", "Outcome", "run"]


def __getattr__(name: str) -> Any:
    """Import public names when first asked for: they bring Hypothesis, which `--help` need not wait for."""
    if name in ("Config", "Outcome"):
        from diffgdn.campaign import config

        return getattr(config, name)
    if name == "run":
        from diffgdn.campaign.engine import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
