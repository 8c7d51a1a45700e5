"""Compile Transformers models to TorchScript on Kubernetes, prove parity with eager, serve only what passed."""

__version__ = "0.1.0"
