"""Ray-cast rooms and streets with exact depth: a mini-DIODE, stereo pairs and video. NumPy alone."""
