"""The TorchScriptModel API: types, conditions, and the CRD that is generated from them."""
