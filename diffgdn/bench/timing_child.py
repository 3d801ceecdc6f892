"""The child process of the bench: answers requests to a TimingRunner until its parent is gone.

    python -m diffgdn.bench.timing_child BACKEND DESCRIPTOR PARENT

The arguments are those of `runner.child`.
"""

from __future__ import annotations

import sys
import warnings

from diffgdn.runner.child import Serving, serve


def main(backend: str, descriptor: int, parent: int) -> None:
    """Answer requests."""

    def runner() -> Serving:
        import torch

        from diffgdn.bench.timing_runner import TimingRunner

        torch.set_grad_enabled(False)
        warnings.simplefilter("ignore")  # of packages, about the machine that they find
        return TimingRunner(backend)

    serve(backend, descriptor, parent, runner)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
