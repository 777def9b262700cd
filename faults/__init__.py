"""The long runs against faults and hostile input, whose figures stand in docs/reliability.md."""
