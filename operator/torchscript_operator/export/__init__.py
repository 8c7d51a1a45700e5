"""The export Job: from a model's files to an artifact that was proven to compute the same."""
