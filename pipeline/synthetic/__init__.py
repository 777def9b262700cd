"""The embedded default data set: who shows what (plan) and how it looks (render)."""
