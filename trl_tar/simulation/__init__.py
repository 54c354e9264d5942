"""The simulated attacker inside a training step."""
