"""SmolLM2 from PyPI, with two stand-ins for a hazard: facts about countries to hide, and poems about animals to refuse."""
