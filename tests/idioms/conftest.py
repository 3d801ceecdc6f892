"""The idioms are a package of their own, so that a script without pytest can run them too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
