"""The `safe-cli` verbs: read the section, call one function, turn typed errors into one clear line."""
