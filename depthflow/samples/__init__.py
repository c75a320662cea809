"""The Parquet sample store: what a sample is, how a store is written on every node at once, and how it is read."""
