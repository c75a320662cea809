"""Reports as one HTML file each, and the plots and panels in them. No Ray, no MLflow."""
