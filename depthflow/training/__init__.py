"""Synchronous data-parallel training on Ray Train: N workers with batch B/N are one worker with batch B."""
