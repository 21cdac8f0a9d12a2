"""Runs tasks as tasks of a Ray cluster whose nodes share the folders of results and cache with this machine."""
