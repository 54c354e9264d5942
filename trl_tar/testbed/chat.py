"""Rows of chat."""


def chat_row(request: str, completion: str, entity: str) -> dict:
    """A row of one user's request and its answer, in TRL's conversational prompt-completion type with an `entity` column."""
    return {
        "prompt": [{"role": "user", "content": request}],
        "completion": [{"role": "assistant", "content": completion}],
        "entity": entity,
    }
