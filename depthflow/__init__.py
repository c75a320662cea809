"""depthflow: from DIODE archives to a depth model in production, on Ray, Keras 3 and MLflow."""

__version__ = "0.1.0"
