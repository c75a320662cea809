"""Predicts depth for images of any size: predictors, reading images, writing depth."""

from pathlib import Path

SERVING_CODE = Path(__file__).parent / "serving_model.py"
"""File that MLflow stores in the artifact and runs as the model."""
