"""A few kills of the fault test; `python tests/faults.py --kills 100` is the long version."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from . import faults


@pytest.mark.timeout(280)
def test_killed_chains_end_as_one_left_in_peace(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, faults.__file__, "--kills", "6", "--seed", "3", "--folder", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    assert re.search(r"^kills +6 ", result.stdout, re.MULTILINE)
    assert re.search(r"^differences +0$", result.stdout, re.MULTILINE)
    compared = re.search(r"^items compared +(\d+) rows of (\d+) datasets", result.stdout, re.M)
    assert compared
    assert int(compared[1]) > 10_000
    assert int(compared[2]) >= 100


def test_the_comparison_sees_a_bit(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "features.h5"
    copy.write_bytes((finished / "features.h5").read_bytes())
    before = faults.contents(copy)
    with h5py.File(copy, "r+") as file:
        file.attrs["created"] = "another day"
    assert faults.contents(copy) == before
    with h5py.File(copy, "r+") as file:
        bits = file["image_features"][3].view("u4")
        bits[5] ^= 1
        file["image_features"][3] = bits.view("f4")
    after = faults.contents(copy)
    assert [name for name in before if before[name] != after[name]] == ["image_features"]
