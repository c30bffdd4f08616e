"""The laboratory: from a configuration to stored runs of all replicates."""
