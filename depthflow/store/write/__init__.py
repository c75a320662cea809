"""Writing a store: from raw frames to committed shards, on every node at once."""
