"""What the export Job, the serving pod and the operator agree on: requests, manifests, digests, parity, stores, failures."""
