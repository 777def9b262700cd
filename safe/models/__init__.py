"""Networks: SAFE from its windows to logits, backbones, and published systems."""
