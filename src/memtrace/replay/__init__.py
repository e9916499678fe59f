"""What a program asked of an allocator, replayed: as it was, or changed, under any settings.

`requests.py` reads the requests of one device from a trace. A what-if makes other requests of them.
`replay` gives them to a simulated allocator; the `Outcome` has its peaks and what was held then.
"""
