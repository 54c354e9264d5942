"""What a run costs: memory and time planned before it, and measured beside the bare loop."""
