"""torch's own caching allocator on the simulated runtime: its rules show, and the ledger agrees."""

from __future__ import annotations

from textwrap import dedent

import pytest

from simcuda.conftest import RunCode

pytestmark = pytest.mark.cuda_sim

PREAMBLE = """
import simcuda
MIB = 1 << 20
def tensor(size_bytes, **options):
    return torch.empty(size_bytes, dtype=torch.uint8, device="cuda", **options)
def stat(name):
    return torch.cuda.memory_stats()[name]
"""

CASES = {
    "caching": """
        x = tensor(100 * MIB)
        assert torch.cuda.memory_reserved() == 100 * MIB
        del x
        assert torch.cuda.memory_reserved() == 100 * MIB
        assert simcuda.counters().allocated_bytes == 100 * MIB
        torch.cuda.empty_cache()
        assert torch.cuda.memory_reserved() == 0
        assert simcuda.counters().allocated_bytes == 0
        assert (simcuda.counters().mallocs, simcuda.counters().frees) == (1, 1)
    """,
    "splitting": """
        first, second = tensor(3 * MIB), tensor(5 * MIB)
        assert torch.cuda.memory_reserved() == 20 * MIB  # one large segment for both
        assert second.data_ptr() == first.data_ptr() + 3 * MIB
        small, smaller = tensor(1), tensor(513)
        assert smaller.data_ptr() == small.data_ptr() + 512
        assert torch.cuda.memory_allocated() == 8 * MIB + 512 + 1024
    """,
    "out_of_memory": """
        live = []
        try:
            while True:
                live.append(tensor(100 * MIB))
        except torch.cuda.OutOfMemoryError as error:
            assert "24.00 MiB is free" in str(error), error
            assert "Including non-PyTorch memory, this process has 1000.00 MiB" in str(error)
        assert len(live) == 7  # 1024 MiB less 300 of the context
        assert (stat("num_ooms"), stat("num_alloc_retries")) == (1, 1)
    """,
    "retry_frees_the_cache": """
        cached = [tensor(100 * MIB) for _ in range(7)]
        del cached
        tensor(500 * MIB)
        assert (stat("num_ooms"), stat("num_alloc_retries")) == (0, 1)
        assert torch.cuda.memory_reserved() == 500 * MIB
    """,
    "capacity_changes": """
        x = tensor(30 * MIB)
        simcuda.set_capacity(simcuda.counters().used_bytes + 40 * MIB)
        y = tensor(40 * MIB)
        assert torch.cuda.mem_get_info()[0] == 0
        try:
            tensor(30 * MIB)
        except torch.OutOfMemoryError:
            pass
        else:
            raise AssertionError("the device was full")
        simcuda.set_capacity(1 << 30)
        tensor(30 * MIB)
    """,
    "another_process_takes_memory": """
        simcuda.set_foreign(700 * MIB)
        try:
            tensor(30 * MIB)
        except torch.OutOfMemoryError as error:
            assert "Process 2147483646 has 700.00 MiB memory in use" in str(error), error
        else:
            raise AssertionError("only 24 MiB were free")
    """,
    "record_stream_while_held": """
        side = torch.cuda.Stream()
        x = tensor(16 * MIB)
        address = x.data_ptr()
        simcuda.hold_stream(side)
        with torch.cuda.stream(side):
            x.add(1)
        x.record_stream(side)
        del x
        assert stat("active_bytes.all.current") == 16 * MIB + stat("allocated_bytes.all.current")
        assert tensor(16 * MIB).data_ptr() != address
        simcuda.release_stream(side)
        tensor(1)  # lets the allocator look at its events
        assert stat("active_bytes.all.current") == stat("allocated_bytes.all.current")
        assert tensor(16 * MIB).data_ptr() == address
    """,
    "waiting_completes_held_work": """
        side = torch.cuda.Stream()
        simcuda.hold_stream(side)
        event = torch.cuda.Event()
        with torch.cuda.stream(side):
            tensor(1).add(1)
            event.record()
        assert not event.query() and not side.query()
        event.synchronize()
        assert event.query() and side.query()
    """,
    "a_stream_waits_for_a_held_one": """
        first, second = torch.cuda.Stream(), torch.cuda.Stream()
        simcuda.hold_stream(first)
        with torch.cuda.stream(first):
            tensor(1).add(1)
        before, after = torch.cuda.Event(), torch.cuda.Event()
        before.record(second)
        second.wait_stream(first)
        after.record(second)
        assert before.query() and not after.query()
        simcuda.release_stream(first)
        assert after.query() and second.query()
    """,
    "timed_events": """
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        end.record()
        torch.cuda.synchronize()
        assert start.elapsed_time(end) >= 0
    """,
    "stream_priorities": """
        assert torch.cuda.Stream(priority=-1).priority == -1
        assert torch.cuda.Stream.priority_range()[0] == 0
    """,
    "graph_capture_and_replay": """
        x = torch.zeros(1000, device="cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = (x * 2) + 1
        pools = {tuple(s["segment_pool_id"]) for s in torch.cuda.memory_snapshot()}
        assert tuple(graph.pool()) in pools and (0, 0) in pools
        before = simcuda.counters().launches
        graph.replay()
        assert simcuda.counters().launches == before + 2
        held = torch.cuda.memory_reserved()
        del y, graph
        torch.cuda.empty_cache()
        assert torch.cuda.memory_reserved() < held
    """,
    "synchronising_spoils_a_capture": """
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        with torch.cuda.stream(stream):
            graph.capture_begin()
            for call, message in (
                (stream.synchronize, "not permitted when stream is capturing"),
                (graph.capture_end, "failed due to a previous error during capture"),
            ):
                try:
                    call()
                except RuntimeError as error:
                    assert message in str(error), error
                else:
                    raise AssertionError(f"{call} had to fail")
        tensor(1)  # the stream and the allocator are usable again
    """,
    "memory_pool": """
        pool = torch.cuda.MemPool()
        with torch.cuda.use_mem_pool(pool):
            x = tensor(30 * MIB)
        y = tensor(30 * MIB)
        (segment,) = pool.snapshot()
        assert segment["address"] == x.data_ptr() and segment["total_size"] == 30 * MIB
        del x, segment, pool
        assert torch.cuda.memory_reserved() == 30 * MIB
    """,
    "pinned_memory": """
        x = torch.empty(1 << 20, pin_memory=True)
        assert x.is_pinned() and not torch.empty(1).is_pinned()
        assert torch.equal(x.to("cuda", non_blocking=True).cpu(), x)
        assert torch.cuda.host_memory_stats()["allocated_bytes.current"] == 4 * MIB
        assert simcuda.counters().allocated_bytes == 20 * MIB  # the copy's segment, nothing else
    """,
    "memory_history": """
        torch.cuda.memory._record_memory_history(context=None)
        x = tensor(4 * MIB)
        del x
        trace = torch.cuda.memory._snapshot()["device_traces"][0]
        assert [(e["action"], e["size"]) for e in trace] == [
            ("segment_alloc", 20 * MIB), ("alloc", 4 * MIB),
            ("free_requested", 4 * MIB), ("free_completed", 4 * MIB)]
    """,
    "ipc_within_the_process": """
        storage = tensor(1000).untyped_storage()
        shared = storage._share_cuda_()
        assert shared[0] == 0 and shared[2] == 1000, shared
    """,
}

EXPANDABLE = """
    live = [tensor(30 * MIB) for _ in range(5)]
    live[0].zero_()
    assert torch.cuda.memory_reserved() == 160 * MIB  # pages of 20 MiB
    assert simcuda.counters().allocated_bytes == 160 * MIB
    (segment,) = torch.cuda.memory_snapshot()
    assert segment["is_expandable"]
    del live, segment
    torch.cuda.empty_cache()
    assert simcuda.counters().allocated_bytes == torch.cuda.memory_reserved() == 0
    live = [tensor(100 * MIB) for _ in range(7)]
    try:
        tensor(100 * MIB)
    except torch.OutOfMemoryError:
        assert simcuda.counters().allocated_bytes == torch.cuda.memory_reserved() == 700 * MIB
    else:
        raise AssertionError("cuMemCreate had to fail")
"""


@pytest.mark.parametrize("name", CASES)
def test_allocator(run_code: RunCode, name: str) -> None:
    run_code(PREAMBLE + dedent(CASES[name]))


def test_expandable_segments(run_code: RunCode) -> None:
    run_code(PREAMBLE + dedent(EXPANDABLE), settings="expandable_segments:True")


def test_stream_ordered_backend(run_code: RunCode) -> None:
    code = """
        assert torch.cuda.get_allocator_backend() == "cudaMallocAsync"
        x = tensor(4 * MIB)
        assert torch.cuda.memory_allocated() == simcuda.counters().allocated_bytes == 4 * MIB
        del x
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        assert torch.cuda.memory_allocated() == simcuda.counters().allocated_bytes == 0
    """
    run_code(PREAMBLE + dedent(code), settings="backend:cudaMallocAsync")


def test_two_devices(run_code: RunCode) -> None:
    code = """
        assert torch.cuda.device_count() == 2
        x = tensor(4 * MIB)
        y = x.to("cuda:1")
        assert torch.cuda.memory_allocated(0) == torch.cuda.memory_allocated(1) == 4 * MIB
        assert simcuda.counters(0).allocated_bytes == simcuda.counters(1).allocated_bytes
        z = torch.nn.Linear(8, 8).to("cuda:1")(torch.randn(2, 8, device="cuda:1"))
        assert z.device.index == 1
        torch.cuda.set_device(1)
        assert torch.cuda.mem_get_info()[1] == 512 * MIB
    """
    run_code(PREAMBLE + dedent(code), devices=2, memory_mb=512, context_mb=100)


def test_addresses_are_the_same_in_every_run(run_code: RunCode) -> None:
    code = """
        live = [tensor(size) for size in (1, 3 * MIB, 40 * MIB)]
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            live.append(tensor(7 * MIB))
        print([x.data_ptr() for x in live], side.cuda_stream)
    """
    # Each in a new interpreter, which the kernel lays out differently.
    first = run_code(PREAMBLE + dedent(code), fresh=True)
    assert first == run_code(PREAMBLE + dedent(code), fresh=True)
