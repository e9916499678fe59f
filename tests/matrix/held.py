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
peak = trace.peak(sys.argv[2])
rows = {row.key: row.requested_bytes for row in peak.snapshot.categories.rows}
named = {category: rows[category] for category in ("weight", "gradient")}
print(json.dumps({"peak": peak.total_bytes, **named}))
