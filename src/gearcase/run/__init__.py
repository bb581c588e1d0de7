"""A run, from start to teardown: it wires the parts below and closes them. No logic of its own.

`process` starts a run in a process of its own and tells how it ended, `supervisor` is that process, `operations` is what the gear
door offers inside, `record` is the ending.
"""
