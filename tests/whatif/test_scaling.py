"""What if the batch size or the sequence length were another: against programs that have it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import memtrace
from memtrace.analyse.counters import integers
from memtrace.errors import MemtraceError
from memtrace.replay.outcome import serve_on_host
from memtrace.replay.requests import Requests, read_requests
from memtrace.whatif.registry import apply_all
from memtrace.whatif.scaling import LARGEST
from trace_builder import TraceBuilder
from whatif.shaped_program import Program

LAWS = (
    lambda b, s: 4096,
    lambda b, s: 12 * b,
    lambda b, s: 8 * s,
    lambda b, s: 1024 * b * s,
    lambda b, s: 4 * s * s,
    lambda b, s: 32 * b * s * s,
    lambda b, s: 64 * b + 256,
)
PLAIN = Program([LAWS[3], LAWS[5], LAWS[0], LAWS[3]])


def asked(requests: Requests, **values: int) -> Requests:
    changed, _ = apply_all(requests, {name: (str(value),) for name, value in values.items()})
    return changed


def lines(requests: Requests, **values: int) -> str:
    _, changes = apply_all(requests, {name: (str(value),) for name, value in values.items()})
    return "\n".join(line for change in changes for line in change.assumptions)


def refusal(requests: Requests, **values: str) -> str:
    with pytest.raises(MemtraceError) as refused:
        apply_all(requests, {name: (value,) for name, value in values.items()})
    return str(refused.value)


@given(
    st.lists(st.sampled_from(LAWS), min_size=1, max_size=8),
    st.booleans(),
    st.lists(st.sampled_from(LAWS), max_size=2),
    st.lists(st.integers(1, 40), min_size=2, max_size=3, unique=True),
    st.integers(1, 3),
    st.integers(1, 200),
)
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_size_is_that_of_the_program_with_the_batch(
    sites, trained, between, batches, repeats, batch
) -> None:
    program = Program(sites, trained, between)
    with TemporaryDirectory() as folder:
        shapes = [(b, 16) for b in batches for _ in range(repeats)]
        recorded = program.requests(Path(folder) / "a.memtrace", shapes)
        real = program.requests(Path(folder) / "b.memtrace", [(batch, 16)] * len(shapes))
        changed = asked(recorded, batch=batch)
        assert changed.size_bytes.tolist() == real.size_bytes.tolist()
        assert changed.start.tolist() == recorded.start.tolist()


def test_batch_and_sequence_together_in_either_order(tmp_path: Path) -> None:
    program = Program(LAWS, trained=True, between=LAWS[1:4])
    shapes = [(2, 16), (3, 16), (2, 24), (3, 24)]
    recorded = program.requests(tmp_path / "a.memtrace", shapes)
    real = program.requests(tmp_path / "b.memtrace", [(9, 100)] * 4)
    changed = asked(recorded, batch=9, sequence=100)
    assert changed.size_bytes.tolist() == real.size_bytes.tolist()
    turned = asked(asked(recorded, sequence=100), batch=9)
    assert turned.size_bytes.tolist() == real.size_bytes.tolist()


def test_what_another_what_if_has_made_of_a_size_stays_in_proportion(tmp_path: Path) -> None:
    recorded = PLAIN.requests(tmp_path / "a.memtrace", [(2, 16), (4, 16)])
    halved = recorded.resized(recorded.size_bytes // 2)
    changed = asked(halved, batch=8)
    assert changed.size_bytes.tolist() == (asked(recorded, batch=8).size_bytes // 2).tolist()


def test_weights_and_what_the_first_call_alone_made_stay(tmp_path: Path) -> None:
    program = Program(PLAIN.sites, warm=777_777)
    recorded = program.requests(tmp_path / "a.memtrace", [(2, 16), (4, 16), (4, 16)])
    changed = asked(recorded, batch=64)
    assert (changed.size_bytes == 777_777).sum() == 1
    assert changed.size_bytes[:3].tolist() == [5000, 5001, 5002]
    assert "777,777 bytes at the peak were seen at one shape only" in lines(recorded, batch=64)


def test_steps_keep_their_own_length(tmp_path: Path) -> None:
    recorded = PLAIN.requests(tmp_path / "a.memtrace", [(2, 16), (4, 16), (4, 32)])
    real = PLAIN.requests(tmp_path / "b.memtrace", [(8, 16), (8, 16), (8, 32)])
    assert asked(recorded, batch=8).size_bytes.tolist() == real.size_bytes.tolist()


def test_what_follows_no_law_is_bounded_and_said(tmp_path: Path) -> None:
    odd = Program([LAWS[0], lambda b, s: {2: 9000, 3: 12000, 4: 18500}[b]])
    recorded = odd.requests(tmp_path / "a.memtrace", [(2, 16), (3, 16), (4, 16)])
    said = lines(recorded, batch=8)
    assert "37,000 bytes at the peak follow no law exactly" in said
    assert "between 18,500 and 37,000 bytes" in said


def test_a_sum_that_nothing_proves_is_said(tmp_path: Path) -> None:
    recorded = Program([LAWS[6], LAWS[6]]).requests(tmp_path / "a.memtrace", [(2, 16), (4, 16)])
    assert "a law that nothing proves" in lines(recorded, batch=8)


def test_one_batch_size_is_refused_with_what_to_record(tmp_path: Path) -> None:
    recorded = PLAIN.requests(tmp_path / "a.memtrace", [(2, 16), (2, 24)])
    line = refusal(recorded, batch="8")
    assert "every call of Model has batch size 2" in line
    assert "memtrace sweep --batch 2,4 SCRIPT" in line
    assert asked(recorded, sequence=48).size_bytes.max() == 32 * 2 * 48 * 48


def test_batch_and_sequence_that_changed_together_are_refused(tmp_path: Path) -> None:
    program = Program([LAWS[1], lambda b, s: 4096 * b, LAWS[0]])
    recorded = program.requests(tmp_path / "a.memtrace", [(2, 16), (4, 32)])
    line = refusal(recorded, batch="8")
    assert "record calls that differ in the batch size alone" in line


def test_a_program_without_calls_is_refused(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    builder.process().alloc("cpu", 100)
    recorded = read_requests(memtrace.open(builder.write()))
    assert "called no model" in refusal(recorded, batch="8")


@pytest.mark.parametrize("text", ["0", "-1", "2.5", "eight", "", "1e3", str(LARGEST + 1), "٣"])
def test_a_batch_that_is_no_number_is_refused(tmp_path: Path, text: str) -> None:
    recorded = PLAIN.requests(tmp_path / "a.memtrace", [(2, 16), (4, 16)])
    assert refusal(recorded, batch=text) == (
        f"--batch {text}: write a whole number from 1 to {LARGEST:,}"
    )


PROGRAM = """
import sys
import torch
from torch import nn

kind, *batches = sys.argv[1:]
torch.manual_seed(0)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(64, 192), nn.Linear(64, 64)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        weights = (q @ k.transpose(1, 2) / 8).softmax(-1)
        return x + self.out(weights @ v)


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(50, 64), nn.Linear(64, 50)

    def forward(self, ids, cache=None):
        x = self.embed(ids)
        cache = x if cache is None else torch.cat([cache, x], 1)
        return self.out((x @ cache.transpose(1, 2)).softmax(-1) @ cache), cache


models = {
    "mlp": nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)),
    "attention": nn.Sequential(Attention(), Attention()),
    "convolution": nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
                                 nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 64, 10)),
    "decoder": Decoder(),
}
model = models[kind.split("-")[0]]
shape = {"attention": (48, 64), "convolution": (3, 16, 16)}.get(kind.split("-")[0], (64,))
optimizer = torch.optim.AdamW(model.parameters())
criterion = nn.MSELoss()
for batch in map(int, batches):
    if kind == "decoder":
        with torch.no_grad():
            ids = torch.randint(0, 50, (batch, 12))
            logits, cache = model(ids)
            for _ in range(4):
                ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
                logits, cache = model(ids[:, -1:], cache)
        del ids, logits, cache
        continue
    for _ in range(2):
        x = torch.randn(batch, *shape)
        if kind.endswith("train"):
            for _ in range(2):  # gradients accumulate
                y = model(x)
                criterion(y, torch.zeros_like(y)).backward()
            optimizer.step()
            optimizer.zero_grad()
            model.eval()
            with torch.no_grad():
                model(x)
            model.train()
        else:
            with torch.no_grad():
                model(x)
"""


def record(folder: Path, *words: str) -> Requests:
    (folder / "program.py").write_text(PROGRAM)
    name = "-".join(words) + ".memtrace"
    argv = [sys.executable, "-m", "memtrace", "run", "--quiet", "-o", name, "program.py", *words]
    subprocess.run(argv, cwd=folder, check=True)
    return read_requests(memtrace.open(folder / name))


@pytest.mark.parametrize(
    "kind",
    ["mlp-train", "attention", "attention-train", "convolution-train", "decoder"],
)
def test_the_peak_at_batch_7_is_exact_from_2_and_3(kind: str, tmp_path: Path) -> None:
    recorded, real = record(tmp_path, kind, "2", "3"), record(tmp_path, kind, "7")
    changed = asked(recorded, batch=7)
    assert serve_on_host(changed).peak().total_bytes == serve_on_host(real).peak().total_bytes
    assert "follow no law" not in lines(recorded, batch=7)
    # All that the calls allocate, not only what is there at the peak.
    count = real.trace.steps.num_rows
    assert sizes_of_last_calls(changed, count) == sizes_of_last_calls(real, count)


def sizes_of_last_calls(requests: Requests, count: int) -> list[int]:
    """Sorted; with what backward allocates for them."""
    step = integers(requests.rows, "step", missing=-1)
    last = requests.trace.steps.num_rows - count
    return sorted(requests.size_bytes[step > last].tolist())
