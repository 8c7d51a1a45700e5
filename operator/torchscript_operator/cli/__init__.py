"""tsm: what the operator does in a cluster, on this machine: the same file, the same code, a folder as the store."""
