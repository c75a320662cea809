"""How published frames lie on disk and in archives, and how they are downloaded. No Ray, no MLflow."""
