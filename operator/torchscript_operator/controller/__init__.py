"""The operator: watches TorchScriptModels and their children, and makes the cluster match."""
