"""What methods and networks cost, measured alone and one at a time: `kdbench profile`."""
