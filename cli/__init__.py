"""The `safe-cli` verbs: read a section, call one function, turn typed errors into one line."""
