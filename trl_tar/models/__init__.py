"""Models and tokenizers: loaded from their files, checked, and run forward."""
