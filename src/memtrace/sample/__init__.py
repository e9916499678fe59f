"""Readings of memory that no allocator tells of: of a process, of its container, of its GPUs.

Most are taken from beside the program, by the finaliser's process while it waits (`sampler.py`):
they cost the program nothing. A program that records itself, with nobody beside it, takes the cheap
ones at its marks; so these modules import built-in modules and `os` only.
"""

from __future__ import annotations
