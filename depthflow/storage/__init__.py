"""Where files lie and how they are written: on a disk, s3:// or gs://, whole or not at all, one writer at a time."""
