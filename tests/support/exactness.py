"""How far a trainer's outer steps are from those of the slow reference."""

from support import reference, tiny
from transformers import TrainerCallback

from trl_tar import Adversary


EXACT = 1e-10  # of the displacement, float64
ROWS = tiny.tokenised()
FULL = Adversary("full", "forget", **tiny.ATTACK)
LORA = Adversary("lora", "forget", lora_r=2, **tiny.ATTACK)
# settings of the trainer that the reference has under the same name
SHARED = set(reference.Setup.__dataclass_fields__)


class Recorded(TrainerCallback):
    """Weights that are being trained, after each outer step."""

    def __init__(self):
        self.steps = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.steps.append({name: p.detach().to("cpu", copy=True) for name, p in trained})


def errors(trainer_steps, reference_steps, start) -> list[float]:
    pairs = zip(trainer_steps, reference_steps, strict=True)
    return [tiny.displacement_error(actual, expected, start) for actual, expected in pairs]


def reference_setup(model, adversaries, **settings) -> reference.Setup:
    pairs = settings.get("tamper_resistance_loss") == "dpo"
    return reference.Setup(
        model,
        ROWS["retain"],
        ROWS["tamper_resistance_pairs" if pairs else "tamper_resistance"],
        adversaries,
        ROWS,
        **{name: value for name, value in settings.items() if name in SHARED},
    )


EXPECTED = {}  # the reference is slow, and the same for every way of accumulating


def expected_steps(adversaries: list[Adversary], settings: dict, make_model) -> list[reference.Weights]:
    key = repr((adversaries, settings, make_model))
    if key not in EXPECTED:
        EXPECTED[key] = reference.outer_steps(reference_setup(make_model(), adversaries, **settings), 3)
    return EXPECTED[key]


def errors_of_outer_steps(make_trainer, adversaries, make_model=tiny.gpt2, accumulation=1, **settings) -> list[float]:
    """Error after each of three outer steps."""
    recorded = Recorded()
    trainer = make_trainer(
        make_model(),
        adversaries=adversaries,
        callbacks=[recorded],
        gradient_accumulation_steps=accumulation,
        per_device_train_batch_size=4 // accumulation,
        **settings,
    )
    start = tiny.weights(make_model())
    trainer.train()
    return errors(recorded.steps, expected_steps(adversaries, settings, make_model), start)
