"""A real Kubernetes on this machine, built from source, for tests: see README.md in this folder."""
