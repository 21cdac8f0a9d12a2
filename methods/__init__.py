"""kdbench's built-in methods: one file per method, one folder per family."""
