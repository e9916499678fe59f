"""Field numbers of perfetto's protos (protos/perfetto/trace/*.proto); they never change."""

from __future__ import annotations

from memtrace.export.wire import message

TRACE_PACKET = 1

PACKET_CLOCK_SNAPSHOT = 6
PACKET_TIMESTAMP = 8
PACKET_SEQUENCE_ID = 10  # trusted_packet_sequence_id
PACKET_TRACK_EVENT = 11
PACKET_INTERNED_DATA = 12
PACKET_SEQUENCE_FLAGS = 13
PACKET_DEFAULTS = 59  # trace_packet_defaults
PACKET_TRACK_DESCRIPTOR = 60
PACKET_FIRST_ON_SEQUENCE = 87

INCREMENTAL_STATE_CLEARED, NEEDS_INCREMENTAL_STATE = 1, 2

TRACK_PROCESS = 3
TRACK_COUNTER = 8
UNIT_SIZE_BYTES = 3

EVENT_TYPE = 9
EVENT_NAME_IID = 10
EVENT_TRACK_UUID = 11
EVENT_CATEGORY = 22
EVENT_COUNTER_VALUE = 30
TYPE_SLICE_BEGIN, TYPE_SLICE_END, TYPE_COUNTER = 1, 2, 4

CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME = 1, 3, 6


def packet(*fields: bytes) -> bytes:
    """One packet of a trace."""
    return message(TRACE_PACKET, *fields)
