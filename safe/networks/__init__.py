"""How do 16 faces become logits? SAFE's parts, and the published models it is compared with."""
