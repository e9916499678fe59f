"""The datasets of a trace: their columns and types, in one place (FORMAT.md is the prose of it).

Every dataset is Parquet with plain string columns; ids are int64, unique in their process;
``*_ns`` are CLOCK_MONOTONIC minus the process's clock origin; ``*_bytes`` are bytes.
"""

from __future__ import annotations

import pyarrow as pa

FORMAT_VERSION = 1
ATTRIBUTION_VERSION = 4

#: Kinds of `lost_events` that cost words and never bytes: the end of a stack, a name. All others
#: mean that records are missing, or do not fit together: sums are bounds then.
LOST_WORDS = frozenset(
    {
        "text_no_space", "stack_too_deep", "operators_deep", "text_bytes_cut", "unknown_text_ids",
        "unmatched_names", "forgotten_forward_calls", "pool_unnumbered",
    }
)  # fmt: skip

#: Columns that no row of any trace leaves empty, or below 0: what everything else is found by.
NEVER_NULL: dict[str, tuple[str, ...]] = {
    "events": ("seq", "time_ns", "device", "action"),
    "allocations": ("allocation_id", "device", "origin", "size_bytes", "alloc_seq"),
    "segments": ("segment_id", "device", "address", "size_bytes", "alloc_seq"),
    "stacks": ("stack_id", "depth"),
    "stages": ("stage_id", "name", "start_time_ns"),
    "steps": ("step", "start_time_ns"),
    "samples": ("time_ns", "seq", "target", "metric"),
    "marks": ("seq", "kind"),
    "operators": ("call_id",),
    "names": ("allocation_id",),
    "timeline": ("device", "metric", "bin_start_ns"),
}

_id = pa.int64()
_ns = pa.int64()
_bytes = pa.int64()
_text = pa.string()
_address = pa.uint64()
_flag = pa.bool_()


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema(list(columns.items()))


SCHEMAS: dict[str, pa.Schema] = {
    "events": _schema(
        seq=_id,
        time_ns=_ns,
        device=_text,
        action=_text,
        allocation_id=_id,
        segment_id=_id,
        address=_address,
        size_bytes=_bytes,
        block_bytes=_bytes,
        thread_id=_id,
        stream=_address,
        pool=_text,
        operator_call_id=_id,
        stack_id=_id,
        allocated_bytes=_bytes,
        active_bytes=_bytes,
        reserved_bytes=_bytes,
        device_free_bytes=_bytes,
    ),
    "allocations": _schema(
        allocation_id=_id,
        device=_text,
        memory=_text,
        origin=_text,
        address=_address,
        size_bytes=_bytes,
        block_bytes=_bytes,
        resident_bytes=_bytes,
        alloc_seq=_id,
        free_seq=_id,
        release_seq=_id,
        alloc_time_ns=_ns,
        free_time_ns=_ns,
        release_time_ns=_ns,
        thread_id=_id,
        free_thread_id=_id,
        stream=_address,
        pool=_text,
        segment_id=_id,
        operator=_text,
        top_operator=_text,
        forward_operator=_text,
        operator_call_id=_id,
        forward_call_id=_id,
        module=_text,
        module_class=_text,
        source=_text,
        stack_id=_id,
        phase=_text,
        stage=_text,
        step=_id,
        category=_text,
        category_by=_text,
        label=_text,
    ),
    "names": _schema(
        allocation_id=_id,
        name=_text,
        kind=_text,
        offset_bytes=_bytes,
        shape=pa.list_(pa.int64()),
        dtype=_text,
        since_seq=_id,
    ),
    "segments": _schema(
        segment_id=_id,
        device=_text,
        address=_address,
        size_bytes=_bytes,
        alloc_seq=_id,
        free_seq=_id,
        alloc_time_ns=_ns,
        free_time_ns=_ns,
        stream=_address,
        pool=_text,
        small=_flag,
        expandable=_flag,
    ),
    "operators": _schema(
        call_id=_id,
        parent_call_id=_id,
        name=_text,
        scope=_text,
        thread_id=_id,
        start_time_ns=_ns,
        end_time_ns=_ns,
        start_seq=_id,
        sequence_number=_id,
        forward_call_id=_id,
        module=_text,
        stack_id=_id,
        allocated_bytes=_bytes,
        freed_bytes=_bytes,
    ),
    "stacks": _schema(
        stack_id=_id,
        depth=pa.int32(),
        kind=_text,
        function=_text,
        file=_text,
        line=pa.int32(),
        module=_text,
        module_class=_text,
        # At depth 0: the line that memory of this stack is said to be of, as in `allocations`.
        source=_text,
    ),
    "stages": _schema(
        stage_id=_id,
        parent_id=_id,
        name=_text,
        kind=_text,
        thread_id=_id,
        start_seq=_id,
        end_seq=_id,
        start_time_ns=_ns,
        end_time_ns=_ns,
    ),
    "steps": _schema(
        step=_id,
        kind=_text,
        stage_id=_id,
        root_module=_text,
        thread_id=_id,
        start_seq=_id,
        end_seq=_id,
        start_time_ns=_ns,
        end_time_ns=_ns,
        batch_size=_id,
        # JSON: {"input_ids": [2, 128], ...}.
        input_shapes=_text,
        grad_enabled=_flag,
        # Class of the exception that the call raised; null when it returned.
        error=_text,
        # Of a step that the program marked: "POST /generate".
        name=_text,
        # The marked step that it lies in.
        parent_step=_id,
    ),
    "samples": _schema(
        time_ns=_ns,
        seq=_id,
        target=_text,
        source=_text,
        metric=_text,
        value_bytes=_bytes,
        text=_text,
        reason=_text,
    ),
    # Beyond FORMAT.md's kinds: backward_begin, backward_end (text: autograd's graph task),
    # optimizer_begin, optimizer_end, recompute_begin, recompute_end (a model called in a backward);
    # oom, at the seq of the event "oom": the text is JSON of who asked, as `allocations` would say
    # it: operator, top_operator, forward_operator, forward_call_id, module, module_class, source.
    "marks": _schema(
        seq=_id,
        time_ns=_ns,
        device=_text,
        kind=_text,
        pool=_text,
        text=_text,
        thread_id=_id,
    ),
    # Of each device of each process: metrics allocated, active and reserved (the CPU: allocated),
    # key null, at most 16,384 bins each. A bin lasts to the next one; `min_bytes` and `max_bytes`
    # include what stood as it began. Metric process: what the system counts, where it was sampled
    # (the CPU: RSS; a GPU: NVML).
    "timeline": _schema(
        device=_text,
        metric=_text,
        key=_text,
        bin_start_ns=_ns,
        min_bytes=_bytes,
        max_bytes=_bytes,
        last_bytes=_bytes,
    ),
    "processes": _schema(
        host=_text,
        boot_id=_text,
        pid=_id,
        parent_pid=_id,
        parent=_text,
        start_method=_text,
        rank=_id,
        local_rank=_id,
        world_size=_id,
        argv=_text,
        argv_withheld=_flag,
        memtrace_version=_text,
        torch_version=_text,
        cuda_version=_text,
        python_version=_text,
        driver_version=_text,
        format_version=_id,
        attribution_version=_id,
        clock_origin_ns=_ns,
        clock_origin_unix_ns=_ns,
        end_time_ns=_ns,
        end_unix_ns=_ns,
        end_reason=_text,
        exit_status=_id,
        complete=_flag,
        events=_id,
        # How many rows this process has in each other dataset, as JSON: {"events": 37, ...}.
        # A trace is checked against it when it is opened; null in older ones.
        dataset_rows=_text,
        # What was left out to stay within --max-disk, as JSON; null: nothing.
        dropped=_text,
        lost_events=_text,
        lost_total=_id,
        unmatched_frees=_id,
        stack_min_bytes=_bytes,
        cpu_on=_flag,
        operators_on=_flag,
        stacks_on=_flag,
        torch_seen=_flag,
        hook_error=_text,
        exception=_text,
        unrecorded_children=_id,
        unscanned_models=_id,
        paused_intervals=_text,
        # The most that torch counted allocated in pauses, where that is more than before them, as
        # JSON: {"cuda:0": 4096}. Null in older traces.
        paused_peaks=_text,
        devices=_text,
        # Null in older traces, and where the program was killed.
        cpu_kernels=_text,
        allocator_settings=_text,
        reconciled=_flag,
        mismatch_bytes=_bytes,
        reconcile_note=_text,
        spool_threads=_id,
    ),
}
