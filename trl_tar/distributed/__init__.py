"""Training and attacks on several devices: gradients, groups of devices, sharded parameters, and launched processes."""
