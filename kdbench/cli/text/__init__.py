"""Text that is laid out for a terminal."""
