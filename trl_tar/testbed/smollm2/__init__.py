"""SmolLM2 from PyPI, the knowledge that it hides, and the poems that it declines to write."""
