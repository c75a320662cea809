"""Depth for photographs: the predictor, reading photographs, writing depth."""

from pathlib import Path

SERVING_CODE = Path(__file__).parent / "serving_model.py"
"""The file that MLflow keeps in the artifact and runs as the model."""
