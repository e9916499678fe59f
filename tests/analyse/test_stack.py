"""The frames of a stack that are told of."""

from __future__ import annotations

from memtrace.analyse.stack import Frame, told_frames

MODULE = "/x/site-packages/torch/nn/modules/module.py"


def frames(*places: str) -> tuple[Frame, ...]:
    return tuple(Frame(*place.split(" ")[::-1], 1) for place in places)


def told(*places: str) -> list[str]:
    return [f"{frame.file} {frame.function}" for frame in told_frames(frames(*places))]


def test_frames_between_a_module_and_its_forward_are_not() -> None:
    assert told("m.py forward", f"{MODULE} _call_impl", "t.py main") == [
        "m.py forward",
        "t.py main",
    ]
    assert told(f"{MODULE} to") == [f"{MODULE} to"]  # there is nothing else to tell
    assert told() == []


def test_a_notebooks_stack_begins_with_its_cell() -> None:
    ran = ["/x/IPython/core/interactiveshell.py run_code", "/x/asyncio/base_events.py run_forever"]
    own = ["m.py forward", "In[2] train", "In[14] <module>"]
    assert told(*own, *ran) == own
    # A function of a cell that a thread calls has no cell around it.
    assert told("In[2] train", *ran) == ["In[2] train", *ran]
    # Code of the program whose file is only called alike, and a module that a cell imports.
    assert told("In[2].py <module>", *ran) == ["In[2].py <module>", *ran]
    assert told("m.py <module>", "In[1] <module>", *ran) == ["m.py <module>", "In[1] <module>"]
