"""What the executors for clusters share: reading options, equal versions on all nodes, results that show late."""
