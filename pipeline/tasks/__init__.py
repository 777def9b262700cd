"""How is work on clips run under guard: in child processes, and by the workers of a cluster?"""
