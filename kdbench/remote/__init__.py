"""Folders of results on an object store, such as s3://bucket/run.

Everywhere else in kdbench a folder of results is a local one. At the door of a command (`door.py`) a URL becomes one: a
mirror in the cache (`mirror.py`), which is brought up to date from the store (`bucket.py`), and from which a command
that writes uploads what it finishes, under a lease that keeps other commands out (`lease.py`).
"""
