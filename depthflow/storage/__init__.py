"""Files on a disk, s3:// or gs://: committed atomically, by one writer at a time."""
