"""Folders of results on an object store, such as s3://bucket/run.

Everywhere else in kdbench, a folder of results is a local one. When a command begins, its URLs are replaced by local
folders (`door.py`): mirrors in the cache (`mirror.py`), which are brought up to date from the store (`bucket.py`). What
a command that writes finishes is uploaded from its mirror, under a lease that keeps other commands out (`lease.py`).
"""
