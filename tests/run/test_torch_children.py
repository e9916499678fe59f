"""Workers of DataLoader and ranks of torchrun write into the same trace."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from program_runs import processes, python, recorded, without_trackers_race

pytest.importorskip("torch", exc_type=ImportError)  # or one that does not load


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(text))
    return path


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_data_loader(tmp_path: Path, method: str) -> None:
    program = write(tmp_path, f"""
        import torch
        class Squares(torch.utils.data.Dataset):
            def __len__(self): return 8
            def __getitem__(self, i): return torch.full((1000,), float(i * i))
        if __name__ == "__main__":
            kept = torch.ones(100)
            loader = torch.utils.data.DataLoader(
                Squares(), num_workers=2, batch_size=2, multiprocessing_context="{method}")
            for _ in range(2):
                print(sum(batch.sum().item() for batch in loader))
    """)  # fmt: skip
    traces = [tmp_path / f"{number}.memtrace" for number in range(5)]
    traced = without_trackers_race(lambda number: recorded(traces[number], program))
    assert traced == without_trackers_race(lambda _: python(program))
    rows = processes(max(trace for trace in traces if trace.exists()))
    # A fork server is a spawned process that forks the workers.
    by_server = method == "forkserver"
    workers = [row for row in rows if row["start_method"] == ("fork" if by_server else method)]
    assert len(workers) == 4
    assert all(row["complete"] and row["events"] > 0 for row in workers)
    (parent,) = (row for row in rows if row["start_method"] == ("spawn" if by_server else "main"))
    assert {row["parent_pid"] for row in workers} == {parent["pid"]}
    assert all(row["lost_total"] == 0 for row in rows)


def test_torchrun(tmp_path: Path) -> None:
    program = write(tmp_path, """
        import os, torch
        torch.ones(1000 * (1 + int(os.environ["RANK"])))
    """)  # fmt: skip
    words = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", program]
    assert recorded(tmp_path / "t.memtrace", *words).status == 0
    ranks = {
        row["rank"]: row for row in processes(tmp_path / "t.memtrace") if row["rank"] is not None
    }
    assert sorted(ranks) == [0, 1]
    assert [ranks[rank]["local_rank"] for rank in (0, 1)] == [0, 1]
    assert {row["world_size"] for row in ranks.values()} == {2}
    assert all(row["events"] > 0 and row["end_reason"] == "exit" for row in ranks.values())


def test_a_fork_after_recording_began_keeps_the_two_apart(tmp_path: Path) -> None:
    program = write(tmp_path, """
        import os, torch
        kept = [torch.ones(1000) for _ in range(10)]
        if os.fork() == 0:
            del kept
            mine = [torch.ones(500) for _ in range(7)]
            os._exit(0)
        os.wait()
        more = [torch.ones(1000) for _ in range(3)]
    """)  # fmt: skip
    assert recorded(tmp_path / "t.memtrace", program).status == 0
    parent, child = processes(tmp_path / "t.memtrace")
    assert child["parent_pid"] == parent["pid"]
    assert child["unmatched_frees"] == 10
    assert child["events"] >= 7
    assert parent["unmatched_frees"] == 0
    assert parent["lost_total"] == child["lost_total"] == 0
