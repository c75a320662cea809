"""A model's figures under a named protocol, computed by many processes, independent of their number."""
