"""Metrics of a model under a named protocol, computed by many processes and independent of their number."""
