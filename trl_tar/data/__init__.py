"""Data sets: where they come from, which types they have, what they may not hold, and how their rows become tokens."""
