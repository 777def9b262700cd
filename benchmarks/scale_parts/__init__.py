"""What does benchmarks/scale.py reckon with? The model, and what it was fed with, a file a part."""
