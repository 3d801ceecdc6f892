"""A user's own kernel as README shows it: a target in under 15 lines, named as a file and as a module."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


def shown() -> str:
    """README's one block of Python that makes a target."""
    blocks: list[str] = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    [block] = [block for block in blocks if "@diffgdn.target(" in block]
    return block


def test_it_is_short() -> None:
    assert len(shown().splitlines()) < 15


@pytest.mark.parametrize("target", ["my_decode.py:decode", "my_decode:decode"])
def test_it_is_fuzzed_as_it_stands(tmp_path: Path, target: str) -> None:
    """README names the file and both spellings; a few cases run and pass."""
    assert f"--target {target}" in README.read_text()
    (tmp_path / "my_decode.py").write_text(shown())
    options = "--op gdn.decode --backend interpret --workers 1 --max-cases 3 --seed 1"
    command = [sys.executable, "-m", "diffgdn", "fuzz", "--target", target, *options.split()]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert re.search(r"^gdn\.decode +3 ", ended.stdout, re.MULTILINE)
    assert ended.stdout.endswith(": nothing found.\n")
