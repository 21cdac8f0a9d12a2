"""Building blocks that built-in and third-party methods import: losses, stages, branches, generator, attack."""
