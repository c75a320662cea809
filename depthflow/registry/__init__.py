"""MLflow, and only here: runs, model versions and promotion."""
