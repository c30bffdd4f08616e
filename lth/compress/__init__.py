"""Smaller files of pruned networks."""
