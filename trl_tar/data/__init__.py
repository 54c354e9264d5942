"""Data sets: their types, their rows as tokens, where they come from, and what may not be in them."""
