"""Several devices: gradients and processes, groups of devices, and sharded parameters."""
