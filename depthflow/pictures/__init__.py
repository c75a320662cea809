"""Pictures for people: one module draws all panels."""
