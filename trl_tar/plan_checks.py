"""What a model and the size of a step must be to be planned; one sentence where they are not."""

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig

from .adversary_checks import check_at_least, check_types
from .bench import Cost
from .shapes import Mode


def check_plan(config: PretrainedConfig, cost: Cost, mode: Mode) -> None:
    """Raises `ValueError` for a step that [`TARTrainer`] would refuse or could not make, and for what is no causal language model."""
    check_types("Cost", cost)
    check_at_least("Cost", cost, batch_size=1, length=2, num_steps=1, interval=1, adversaries=1)
    if cost.num_steps < cost.interval:
        raise ValueError(
            f"An attack of {cost.num_steps} steps with an interval of {cost.interval} would never be judged. Take more "
            "attack steps, or a shorter interval."
        )
    if mode.devices > cost.batch_size:
        raise ValueError(
            f"A batch of {cost.batch_size} rows leaves some of {mode.devices} devices without one. Take fewer devices, or "
            f"a batch of at least {mode.devices}."
        )
    of_type = f"A model of type {config.model_type!r}"
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"{of_type} cannot be planned: it is no causal language model. Use one.")
    fields = config.get_text_config().to_dict()
    fields |= {name: fields[own] for name, own in config.get_text_config().attribute_map.items() if own in fields}
    layers, context = fields.get("num_hidden_layers"), fields.get("max_position_embeddings")
    if not isinstance(layers, int) or layers < 1:
        raise ValueError(
            f"{of_type} with num_hidden_layers={layers} cannot be planned: it has no layer. Give it at least one."
        )
    if isinstance(context, int) and 0 < context < cost.length:
        raise ValueError(
            f"{of_type} has a context of {context} positions, and rows have {cost.length} tokens. Take rows of at most "
            f"{context}."
        )
