"""Long fault runs: what docs/reliability.md says."""
