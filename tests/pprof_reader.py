"""pprof's Profile, as far as memtrace writes it, from the numbers that its .proto gives."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def pprof_profile() -> Any:
    """An empty one, to parse into."""
    int64, string, message = 3, 9, 11
    optional, repeated = 1, 3
    messages: dict[str, list[tuple[str, int, int, int, str]]] = {
        "ValueType": [("type", 1, int64, optional, ""), ("unit", 2, int64, optional, "")],
        "Label": [
            ("key", 1, int64, optional, ""), ("str", 2, int64, optional, ""),
            ("num", 3, int64, optional, ""),
        ],
        "Sample": [
            ("location_id", 1, 4, repeated, ""), ("value", 2, int64, repeated, ""),
            ("label", 3, message, repeated, "Label"),
        ],
        "Line": [("function_id", 1, 4, optional, ""), ("line", 2, int64, optional, "")],
        "Location": [("id", 1, 4, optional, ""), ("line", 4, message, repeated, "Line")],
        "Function": [
            ("id", 1, 4, optional, ""), ("name", 2, int64, optional, ""),
            ("filename", 4, int64, optional, ""),
        ],
        "Profile": [
            ("sample_type", 1, message, repeated, "ValueType"),
            ("sample", 2, message, repeated, "Sample"),
            ("location", 4, message, repeated, "Location"),
            ("function", 5, message, repeated, "Function"),
            ("string_table", 6, string, repeated, ""),
            ("time_nanos", 9, int64, optional, ""),
            ("period_type", 11, message, optional, "ValueType"),
            ("default_sample_type", 14, int64, optional, ""),
        ],
    }  # fmt: skip
    file = descriptor_pb2.FileDescriptorProto(
        name="pprof_as_read.proto", package="as_read", syntax="proto3"
    )
    for name, fields in messages.items():
        described = file.message_type.add(name=name)
        for field, number, kind, label, of in fields:
            type_name = f".as_read.{of}" if of else None
            described.field.add(
                name=field, number=number, type=kind, label=label, type_name=type_name
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("as_read.Profile"))()
