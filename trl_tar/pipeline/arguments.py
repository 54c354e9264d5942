"""Arguments that both recipes share, and the task that they describe."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from ..adversaries.adversary import Adversary
from ..adversaries.from_yaml import adversaries_of
from ..data.sources import load_datasets
from ..files import check_names, read_yaml
from ..models.tokenizers import own_tokenizer
from ..red_teaming.checks import check_models
from ..report.recovery import CHANCE
from ..tasks.from_yaml import benign_of, covered_entities_of, metric_of, question_entities_of
from ..tasks.task import Task
from ..validation import check_types
from .defence import Defence
from .shipped_files import shipped


TAR, REPAIR = "tar", "repair"  # phases of every recipe, and the folders of their models
REFERENCES = ("start", "base")


@dataclass
class RecipeArguments:
    """
    Arguments that the recipes share. Those of phase 2 are the fields of [`TARConfig`], which YAML has next to them. A
    recipe is a subclass with its `defences`: name → phase 1.

    Args:
        phases (`list[str]`, *optional*, defaults to `["tar"]`):
            The phases, in order: at most one of `defences`, `"tar"`, and `"repair"` where it is wanted. Without a defence,
            TAR starts from the base, which is its own twin. Each recipe has a default of its own.
        reference (`str`, *optional*, defaults to `"start"`):
            What TAR's anchors compare with, and who answers the general text: `"start"`, the model that TAR starts from, or
            `"base"`, the model before any phase.
        model_name_or_path (`str`, *optional*):
            The model to harden: folder or Hub id.
        world (`str`, *optional*):
            Seed of an embedded world, or the name of another task that comes with the package, in place of model, data
            sets, metrics and benign task.
        preset (`str`, *optional*):
            Name of settings of phase 2, see [`~trl_tar.trainers.presets`]. Fields that YAML or the command line give win.
        data (`dict`, *optional*):
            Name → file, or fields of [`~trl_tar.data.sources.DataSource`]. Given in YAML.
        metrics (`dict`, *optional*):
            Name → file of questions, `module:function`, or fields, see [`~trl_tar.tasks.from_yaml.metric_of`]. Given in
            YAML.
        benign (`dict`, *optional*):
            What a harmless user should still learn: `dataset`, a name in `data`, `metric`, as in `metrics`, and other fields
            of [`BenignTask`]. Given in YAML.
        chat (`bool`, *optional*):
            Whether plain questions of all metrics go through the chat template, where a metric does not say so itself.
        adversaries (`list`, *optional*):
            A_train, as the fields of each [`Adversary`]; a `sweep` among them, field → values, makes one of each
            combination. Given in YAML.
        adversaries_file (`str`, *optional*):
            YAML file with such a list, in place of `adversaries`.
        repair_steps (`int`, *optional*, defaults to `100`):
            Steps of the repair: distillation from the base on D_retain, after TAR.
        repair_learning_rate (`float`, *optional*, defaults to `1e-5`):
            Learning rate of the repair.
        attacks (`str`, *optional*):
            Suite of the red team by name, or a YAML file; the recipe's own by default.
        attack_steps (`int`, *optional*), attack_learning_rate_scale (`float`, *optional*), attack_batch_size (`int`,
        *optional*):
            Arguments of a named suite.
        attack_seeds (`int`, *optional*, defaults to `3`):
            Seeds of each attack; 0 leaves the red team out.
        attack_budget (`int`, *optional*), attack_workers (`int`, *optional*, defaults to `1`):
            As in [`red_team`].
        attack_evaluation_steps (`list[int]`, *optional*):
            As `evaluation_steps` in [`red_team`].
        chance (`float`, *optional*, defaults to `0.25`):
            Harm of a model that guesses.
        description (`str`, *optional*):
            What the card says of the model; by default what the task is and which phases there were.
        base_model (`str`, *optional*), license (`str`, *optional*):
            For the card's metadata: Hub id of the model to harden, where that is a folder, and licence of the weights, as
            the Hub names it. A task that comes with the package knows its own.
    """

    defences: ClassVar[Mapping[str, Defence]] = {}

    phases: list[str] = field(default_factory=lambda: [TAR], metadata={"help": "Phases, in order."})
    reference: str = field(
        default="start", metadata={"help": "Of TAR's anchors: its start, or the base.", "choices": [*REFERENCES]}
    )
    model_name_or_path: str | None = field(default=None, metadata={"help": "Model to harden: folder or Hub id."})
    world: str | None = field(default=None, metadata={"help": "Seed of an embedded world, in place of model and data."})
    preset: str | None = field(
        default=None, metadata={"help": "Named settings of phase 2: paper, released, continued."}
    )
    data: dict | None = field(default=None, metadata={"help": "Name → data set, in YAML."})
    metrics: dict | None = field(default=None, metadata={"help": "Name → metric, in YAML."})
    benign: dict | None = field(default=None, metadata={"help": "Task of a harmless user, in YAML."})
    chat: bool | None = field(
        default=None, metadata={"help": "Whether plain questions of all metrics go through the chat template."}
    )
    adversaries: list[dict] | None = field(default=None, metadata={"help": "A_train, in YAML."})
    adversaries_file: str | None = field(default=None, metadata={"help": "YAML file with A_train."})
    # as many as the supervised steps that the paper's refusal run ends with
    repair_steps: int = field(default=100, metadata={"help": "Steps of the distillation from the base after TAR."})
    repair_learning_rate: float = field(default=1e-5, metadata={"help": "Of the repair."})
    attacks: str | None = field(default=None, metadata={"help": "Suite of the red team: a name or a YAML file."})
    attack_steps: int | None = field(default=None, metadata={"help": "Steps of each attack of a named suite."})
    attack_learning_rate_scale: float | None = field(
        default=None, metadata={"help": "Multiplies the learning rates of a named suite."}
    )
    attack_batch_size: int | None = field(default=None, metadata={"help": "Rows of a batch of a named suite."})
    attack_seeds: int = field(default=3, metadata={"help": "Seeds of each attack; 0 leaves the red team out."})
    attack_budget: int | None = field(default=None, metadata={"help": "Attacks of each model at most."})
    attack_workers: int = field(default=1, metadata={"help": "Attacks that run at the same time on each process."})
    attack_evaluation_steps: list[int] | None = field(default=None, metadata={"help": "Steps to evaluate attacks at."})
    chance: float = field(default=CHANCE, metadata={"help": "Harm of a model that guesses."})
    description: str | None = field(default=None, metadata={"help": "What the card says of the model."})
    base_model: str | None = field(default=None, metadata={"help": "Hub id of the model to harden, for the card."})
    license: str | None = field(default=None, metadata={"help": "Licence of the weights, as the Hub names it."})

    def __post_init__(self):
        """Raises `ValueError` for a value of another type than its field, out of range, or read by nothing."""
        if type(self.world) is int:  # as YAML has a seed
            self.world = str(self.world)
        check_types("The recipe", self)
        for name in ("data", "metrics", "benign"):
            check_names(f"`{name}`", getattr(self, name))
        self.check_from_0("attack_seeds")
        self.check_above_0("repair_steps", "repair_learning_rate")
        self._check_phases()
        if self.reference not in REFERENCES:
            raise ValueError(f"The recipe has reference={self.reference!r}. Use {' or '.join(map(repr, REFERENCES))}.")
        for name in ("model_name_or_path", "data", "metrics", "benign", "chat"):
            if self.world is not None and getattr(self, name) is not None:
                raise ValueError(f"The recipe has `world` and `{name}`. Leave one out: a world has its own.")

    def _check_phases(self) -> None:
        """Raises `ValueError` for phases that are unknown, there twice, missing or in another order."""
        owner, known = f"The recipe has phases={self.phases!r}", [*self.defences, TAR, REPAIR]
        unknown = next((name for name in self.phases if name not in known), None)
        if unknown is not None:
            raise ValueError(f"{owner}, and knows no {unknown!r}. Use {', '.join(known)}.")
        twice = next((name for name in self.phases if self.phases.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{owner}, with {twice!r} twice. Name each phase once.")
        if TAR not in self.phases:
            raise ValueError(f"{owner}, without {TAR!r}. Add it: it is what the recipe is for.")
        if len(self.chosen_defences) > 1:
            raise ValueError(f"{owner}, with {len(self.chosen_defences)} phases before TAR. Choose one of them.")
        if self.phases != sorted(self.phases, key=known.index):
            raise ValueError(f"{owner}. Give them in the order {', '.join(sorted(self.phases, key=known.index))}.")

    @property
    def chosen_defences(self) -> list[Defence]:
        """The phase 1 of this run, in a list that is empty where it has none."""
        return [self.defences[name] for name in self.phases if name in self.defences]

    def check_from_0(self, *names: str) -> None:
        """Raises `ValueError` where one of the fields is neither `None` nor a finite number of at least 0."""
        for name in names:
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"The recipe has {name}={getattr(self, name)}. Use a finite number of at least 0.")

    def check_above_0(self, *names: str) -> None:
        """Raises `ValueError` where one of the fields is neither `None` nor a finite number above 0."""
        for name in names:
            if getattr(self, name) is not None and not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"The recipe has {name}={getattr(self, name)}. Use a finite number above 0.")

    def training_adversaries(self) -> list[Adversary]:
        """Returns A_train from YAML or its own file; raises `ValueError` for none, or both."""
        if (self.adversaries is None) == (self.adversaries_file is None):
            raise ValueError("The recipe needs either `adversaries` or `adversaries_file`. Give one of them.")
        if self.adversaries is not None:
            return adversaries_of(self.adversaries)
        return adversaries_of(read_yaml(Path(shipped(self.adversaries_file)), list, "Give a list of adversaries."))


def described_task(args: RecipeArguments, pad_token: str | None = None) -> Task:
    """Returns the task that model, `data`, `metrics` and `benign` describe; the groups that questions name are the entities
    that no data set may hold.

    Args:
        args ([`RecipeArguments`]):
            Arguments of a recipe without `world`.
        pad_token (`str`, *optional*):
            One of the tokenizer's tokens, to pad with.

    Raises:
        `ValueError`: if model, `data` or `metrics` are missing, before anything is loaded, or cannot be read.
    """
    if args.model_name_or_path is None or not args.data:
        raise ValueError("The recipe needs `model_name_or_path` and `data`, or `world`. Give them in its YAML file.")
    if args.attack_seeds and not args.metrics:
        raise ValueError("The recipe needs `metrics` for its red team. Give them, or attack_seeds: 0.")
    needed = ("retain", "tamper_resistance", *(defence.dataset for defence in args.chosen_defences))
    missing = [name for name in needed if name not in args.data]
    if missing:
        raise ValueError(f"`data` has {sorted(args.data)}, without {missing[0]!r}. Add the data set under that name.")
    check_models({"model": args.model_name_or_path})
    metrics = {name: metric_of(name, source, Path(), args.chat) for name, source in (args.metrics or {}).items()}
    tokenizer = own_tokenizer(args.model_name_or_path)
    if pad_token is not None:
        if pad_token not in tokenizer.get_vocab():
            raise ValueError(
                f"`pad_token` is {pad_token!r}, which the tokenizer does not have. Name one of its tokens, and not the end "
                "of text."
            )
        tokenizer.pad_token = pad_token
    datasets = load_datasets(args.data)
    return Task(
        args.model_name_or_path,
        tokenizer,
        datasets,
        metrics,
        question_entities=question_entities_of(metrics),
        covered_entities=covered_entities_of(metrics),
        benign=benign_of(args.benign, datasets, Path(), args.chat),
    )
