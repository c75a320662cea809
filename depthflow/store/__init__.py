"""The sample store: a folder of Parquet shards that any Parquet reader opens."""
