"""Memory and time of an outer step, planned from a configuration and measured next to a bare training loop."""
