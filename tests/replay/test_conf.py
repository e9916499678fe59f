"""PYTORCH_ALLOC_CONF as torch reads it: its words here, and torch's own reading of them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import simcuda
from memtrace.errors import MemtraceError
from memtrace.replay.conf import MIB, AllocatorConf, parse_conf

READ = [
    "",
    "expandable_segments:True",
    " max_split_size_mb : 32 , garbage_collection_threshold:0.6,",
    "max_split_size_mb:20",
    "max_split_size_mb:64,max_split_size_mb:128",
    "large_segment_size_mb:32,max_split_size_mb:32,max_non_split_rounding_mb:40",
    "roundup_power2_divisions:8",
    "roundup_power2_divisions:[256:1,512:2,1024:4,>:8]",
    "roundup_power2_divisions:[1:4,16:2]",
    "roundup_power2_divisions:[131072:2]",
    "roundup_power2_divisions:[512:2,256:1]",
    "roundup_power2_divisions:[>:8],expandable_segments:False",
    "roundup_power2_divisions:[]",
    "per_process_memory_fraction:0.5,backend:native",
]
REFUSED = [
    "max_split_size_mb:19",
    "max_split_size_mb:lots",
    "max_split_size_mb:",
    "large_segment_size_mb:10",
    "large_segment_size_mb:32,max_split_size_mb:24",
    "large_segment_size_mb:32,max_non_split_rounding_mb:24",
    "max_non_split_rounding_mb:19",
    "garbage_collection_threshold:1.0",
    "garbage_collection_threshold:0",
    "per_process_memory_fraction:1.5",
    "expandable_segments:true",
    "roundup_power2_divisions:0",
    "roundup_power2_divisions:3",
    "roundup_power2_divisions:[300:2]",
    "segments:1",
    "expandable_segments:True,,max_split_size_mb:32",
]
ASK = """
import json, sys
import torch
from memtrace.hook.cuda import settings_text
torch.cuda.init()
read = []
for conf in json.load(sys.stdin):
    # What a call does not name, and torch does not reset, would stay.
    torch.cuda.memory._set_allocator_settings(
        "expandable_segments:False,large_segment_size_mb:20,max_non_split_rounding_mb:20")
    try:
        torch.cuda.memory._set_allocator_settings(conf)
        read.append(json.loads(settings_text(torch, conf)))
    except (ValueError, RuntimeError, IndexError):
        read.append(None)
print(json.dumps(read))
"""


def test_each_key() -> None:
    conf = parse_conf(
        "expandable_segments:True,max_split_size_mb:128,max_non_split_rounding_mb:30,"
        "large_segment_size_mb:24,garbage_collection_threshold:0.8,roundup_power2_divisions:4,"
        "per_process_memory_fraction:0.5"
    )
    assert conf.expandable_segments
    assert conf.max_split_bytes == 128 * MIB
    assert conf.max_non_split_rounding_bytes == 30 * MIB
    assert conf.large_segment_bytes == 24 * MIB
    assert conf.garbage_collection_threshold == 0.8
    assert set(conf.roundup_power2_divisions) == {4}
    assert conf.memory_fraction == 0.5
    assert parse_conf("") == AllocatorConf()


def test_as_it_is_written_in_a_shell() -> None:
    for text in ("PYTORCH_ALLOC_CONF=expandable_segments:True",
                 'export PYTORCH_CUDA_ALLOC_CONF="expandable_segments:True"'):  # fmt: skip
        assert parse_conf(text).expandable_segments
        assert parse_conf(text).text == "expandable_segments:True"


def test_keys_without_effect_are_left_out_with_a_word() -> None:
    (note,) = parse_conf("pinned_use_background_threads:True").notes
    assert note == (
        "pinned_use_background_threads is left out: it is about pinned memory of the host"
    )


@pytest.mark.parametrize("text", REFUSED)
def test_what_torch_refuses_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(MemtraceError) as error:
        parse_conf(text)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"PYTORCH_ALLOC_CONF {text!r}: ")


def test_another_back_end_is_refused() -> None:
    with pytest.raises(MemtraceError, match="cudaMallocAsync is another allocator"):
        parse_conf("backend:cudaMallocAsync")


def test_what_a_call_does_not_name_persists_or_is_reset() -> None:
    first = parse_conf("expandable_segments:True,max_split_size_mb:64,large_segment_size_mb:30,"
                       "roundup_power2_divisions:4,max_non_split_rounding_mb:35")  # fmt: skip
    after = first.changed_by(parse_conf("garbage_collection_threshold:0.5"))
    assert after.expandable_segments
    assert after.large_segment_bytes == 30 * MIB
    assert after.max_non_split_rounding_bytes == 35 * MIB
    assert after.max_split_bytes is None
    assert set(after.roundup_power2_divisions) == {0}
    assert after.garbage_collection_threshold == 0.5
    assert not first.changed_by(parse_conf("expandable_segments:False")).expandable_segments


@pytest.mark.cuda_sim
def test_torch_reads_and_refuses_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK], input=json.dumps([*READ, *REFUSED]), text=True,
        capture_output=True, env=simcuda.environment(simcuda.Machine()), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    compared = ("expandable_segments", "max_split_size", "garbage_collection_threshold",
                "roundup_power2_divisions")  # fmt: skip
    for text, torchs in zip(READ, found, strict=False):
        ours = json.loads(parse_conf(text).settings_text())
        assert {name: ours[name] for name in compared} == {
            name: torchs[name] for name in compared
        }, text
    refused = dict(zip(REFUSED, found[len(READ) :], strict=True))
    assert {text for text, torchs in refused.items() if torchs is not None} == set()


def test_a_call_of_the_programs_that_torch_would_refuse_is_told() -> None:
    first = parse_conf("large_segment_size_mb:64")
    with pytest.raises(MemtraceError, match="the program then sets 'max_split_size_mb:32' itself"):
        first.changed_by(parse_conf("max_split_size_mb:32"))
    both = parse_conf("large_segment_size_mb:20,max_split_size_mb:32")
    assert first.changed_by(both).max_split_bytes == 32 * MIB
