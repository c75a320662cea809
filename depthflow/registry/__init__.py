"""All use of MLflow: runs, model versions and promotion."""
