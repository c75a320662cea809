"""Reading a store: random access to its samples, an epoch's order, each worker's share of it."""
