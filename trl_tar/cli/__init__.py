"""`trl-tar`: the Python functions with their arguments parsed. `main` and `options` import nothing heavy."""
