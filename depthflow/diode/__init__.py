"""DIODE as published: ids and paths, triplets, the camera, and a synthetic mini-DIODE. Facts: arXiv:1908.00463."""
