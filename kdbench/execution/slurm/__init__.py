"""Runs tasks as jobs of a Slurm cluster whose nodes share the folders of results and cache with this machine."""
