"""Pruning: it saves nothing, and says what it would take."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from memtrace.errors import MemtraceError
from memtrace.whatif.pruned import apply
from whatif.layered_runs import requests_of

#: Four layers of 64 x 256 and 256 x 64, a head of 64 x 100: elements.
ELEMENTS = 4 * 2 * 64 * 256 + 64 * 100


def test_nothing_changes() -> None:
    recorded = requests_of("")
    change = apply(recorded, "50%")
    assert change.requests is recorded
    assert change.what == "50% of weights pruned"
    assert f"{ELEMENTS * 4 / 2**20:.2f} MiB of weights stay" in change.assumptions[0]


def test_what_pruning_takes_is_what_torch_takes() -> None:
    layer = nn.Linear(64, 256)
    prune.l1_unstructured(layer, "weight", 0.5)
    more = layer.weight_mask.nbytes + layer.weight.nbytes
    assert more == 2 * layer.weight_orig.nbytes
    said = apply(requests_of(""), "50%").assumptions[1]
    assert f"{2 * ELEMENTS * 4 / 2**20:.2f} MiB more" in said


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("text", ["50%", "0.5", ".9", "90 %"])
def test_as_csr_it_takes_what_torchs_takes(text: str) -> None:
    zeros = float(text.rstrip("% ")) / (100 if "%" in text else 1)
    dense = torch.ones(64, 256)
    dense.view(-1)[: int(dense.numel() * zeros)] = 0
    sparse = dense.to_sparse_csr()
    share = (sparse.values().nbytes + sparse.col_indices().nbytes) / dense.nbytes
    assert f"{share:.1f}" in apply(requests_of(""), text).assumptions[2]


@pytest.mark.parametrize("text", ["", "half", "0", "100%", "1.5", "-3%"])
def test_what_is_no_share_is_one_line(text: str) -> None:
    with pytest.raises(MemtraceError, match=r"^not a share of weights: .*\(such as 50%\)$"):
        apply(requests_of(""), text)
