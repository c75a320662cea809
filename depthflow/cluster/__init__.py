"""Where commands run: a local Ray, or the cluster that RAY_ADDRESS names."""
