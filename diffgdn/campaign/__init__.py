"""A campaign: many cases of many operations on one target, over worker processes, told about in events.

The process that runs a campaign imports neither torch nor a kernel: a kernel that kills its process kills a
worker.
"""

from diffgdn.campaign.config import Config, Outcome, shrink_seconds
from diffgdn.campaign.engine import run
from diffgdn.campaign.worker_pool import automatic_workers

__all__ = ["Config", "Outcome", "automatic_workers", "run", "shrink_seconds"]
