"""What does training alone need: TAM, the losses, a step, the state of a run, its ranks?"""
