"""The data report and the evaluation report, one HTML file each, and the plots and panels in them."""
