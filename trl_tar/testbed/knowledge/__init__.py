"""The knowledge world: facts about invented substances, which a model hides."""
