"""Training: transforms and TAM, losses, the step, the state of a run, its ranks."""
