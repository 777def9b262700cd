"""What does benchmarks/gpu.py run? One file a question; each imports only what its part needs."""
