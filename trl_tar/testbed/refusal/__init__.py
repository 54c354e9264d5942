"""The refusal world: requests that a chat model declines."""
