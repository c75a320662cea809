"""The demo: every command in sequence, on a synthesized mini-DIODE or on a user's own frames."""
