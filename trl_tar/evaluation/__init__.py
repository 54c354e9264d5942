"""Metrics, each a function from a model and its tokenizer to one score an example."""
