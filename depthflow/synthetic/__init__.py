"""Ray-cast rooms and streets with exact depth, written in DIODE's layout. NumPy alone."""
