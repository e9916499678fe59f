"""What is appended is read back; what is cut or damaged is left out, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from memtrace.sample.sample_file import NAME, Reading, open_to_append, read_samples, to_line

READINGS = [
    Reading(10, "host", "rss", "rss", 4096),
    Reading(20, "gpu", "nvml", "unavailable", None, "nvidia-ml-py is not installed"),
    Reading(30, "GPU-1234", "nvml", "process", 1 << 40),
]


def test_written_and_read(tmp_path: Path) -> None:
    for reading in READINGS:
        file = open_to_append(str(tmp_path))
        os.write(file, to_line(reading))
        os.close(file)
    assert read_samples(str(tmp_path)) == READINGS
    assert os.stat(tmp_path / NAME).st_mode & 0o777 == 0o600


def test_a_text_is_one_line(tmp_path: Path) -> None:
    line = to_line(Reading(1, "gpu", "nvml", "unavailable", None, "a\nb \udcff"))
    (tmp_path / NAME).write_bytes(line)
    assert read_samples(str(tmp_path))[0].text == "a b ?"


@pytest.mark.parametrize("cut", range(1, 20))
def test_cut_anywhere(tmp_path: Path, cut: int) -> None:
    data = b"".join(map(to_line, READINGS))
    (tmp_path / NAME).write_bytes(data[:-cut])
    kept = 3 if cut == 1 else 2  # without its newline it is whole
    assert read_samples(str(tmp_path)) == READINGS[:kept]


@pytest.mark.parametrize(
    "damage",
    [b"x host rss rss 1;\n", b"5 host rss rss;\n", b"5 host rss rss -7;\n", b"\xff\xfe;\n", b";\n",
     b"5 host rss rss 99999999999999999999999;\n", b"\0" * 100 + b"\n", b"5 host rss rss 4\n"],
)  # fmt: skip
def test_damaged_lines_are_left_out(tmp_path: Path, damage: bytes) -> None:
    data = to_line(READINGS[0]) + damage + to_line(READINGS[2])
    (tmp_path / NAME).write_bytes(data)
    assert read_samples(str(tmp_path)) == [READINGS[0], READINGS[2]]


def test_there_is_none(tmp_path: Path) -> None:
    assert read_samples(str(tmp_path)) == []
    with pytest.raises(OSError, match=r"."):
        open_to_append(str(tmp_path / "gone"))
