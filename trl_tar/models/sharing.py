"""Parameters that are one."""

from itertools import combinations

from transformers import PreTrainedModel


def check_sharing(model: PreTrainedModel) -> None:
    """Raises `ValueError` for two names of one parameter that the model's class does not tie.

    No file of weights can hold them: transformers refuses to save the model."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name not in model.all_tied_weights_keys:
            names.setdefault(id(parameter), []).append(name)
    pairs = (pair for each in names.values() for pair in combinations(each, 2))
    for first, second in pairs:
        raise ValueError(
            f"The parameters {first!r} and {second!r} of the model are one, which its class does not say, so that no file can "
            "hold them. Copy one of them into a parameter of its own."
        )
