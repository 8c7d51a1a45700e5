"""What Job, pod and operator agree on: requests, manifests, digests, parity, stores, failures."""
