"""A row of chat."""


def chat_row(request: str, completion: str, entity: str) -> dict:
    """One turn of a user and its answer, in TRL's conversational prompt-completion type."""
    return {
        "prompt": [{"role": "user", "content": request}],
        "completion": [{"role": "assistant", "content": completion}],
        "entity": entity,
    }
