"""Data sets: an entry each. A new one is a module here and a line in registry.py."""
