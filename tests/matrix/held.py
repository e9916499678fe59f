"""What a trace says of program.py, in the same form: python held.py TRACE DEVICE"""

from __future__ import annotations

import json
import sys

import memtrace

trace = memtrace.open(sys.argv[1])
(process,) = trace.processes.to_pylist()
assert process["hook_error"] is None, process["hook_error"]
assert process["lost_total"] == 0, process["lost_events"]
assert process["reconciled"] is not False, process["reconcile_note"]
device = sys.argv[2]
held = {"weight": 0, "gradient": 0}
for row in trace.allocations.to_pylist():
    if row["device"] == device and row["category"] in held and row["free_seq"] is None:
        held[row["category"]] += row["size_bytes"]
calls = {row["call_id"]: row for row in trace.operators.to_pylist()}
ways: dict[int, list[str]] = {}
for _, row in sorted(calls.items()):
    outer = row
    while outer and outer["name"] != "one way":
        outer = calls.get(outer["parent_call_id"])
    if outer and outer is not row:
        ways.setdefault(outer["call_id"], []).append(row["name"])
first, second = ways.values()
came = {"shortcut": True, "same_operators": first == second and "aten::addmm" in first}
print(json.dumps({"peak": trace.peak(device).total_bytes, **held, **came}))
