"""The trainers of safeguards and their configurations."""
