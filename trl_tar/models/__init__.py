"""Models and their tokenizers: loading them from files, checks of them, LoRA targets and forward passes."""
