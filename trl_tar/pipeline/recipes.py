"""The recipes by name, and a run of each, as `recipes/*.py` and `trl-tar harden` start them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..tasks.built_in import knowledge_task, refusal_task
from ..tasks.task import Task
from ..trainers.tar_config import TARConfig
from .arguments import RecipeArguments, described_task
from .checks import check
from .knowledge import KnowledgeArguments
from .refusal import RefusalArguments
from .run_folder import hold
from .steps import run, suite_of, train_and_attack


@dataclass(frozen=True)
class Recipe:
    """What one recipe has of its own.

    Args:
        arguments (`type[RecipeArguments]`):
            Its arguments, with the phases 1 that it knows.
        suite (`str`):
            Name of the suite that the red team attacks with by default.
        built_in (`Callable`):
            Seed of an embedded world, or the name of another task that comes with the package → the task.
        what (`str`):
            What the card says of a model that it made.
    """

    arguments: type[RecipeArguments]
    suite: str
    built_in: Callable[[str], Task]
    what: str

    def __call__(self, args: RecipeArguments, tar: TARConfig) -> None:
        """Trains the phases of a run, attacks its last model, and publishes it where that is asked for."""
        adversaries = args.training_adversaries()
        suite = suite_of(args, self.suite)
        task = self.built_in(args.world) if args.world is not None else described_task(args, tar.pad_token)
        check(task, args, tar, adversaries, suite)
        hold(Path(tar.output_dir))
        train_and_attack(task, args, tar, adversaries, suite, self.what)


RECIPES = {
    "knowledge": Recipe(
        KnowledgeArguments,
        "knowledge",
        knowledge_task,
        "A language model in which hazardous knowledge was to be hidden, also from those who fine-tune it.",
    ),
    "refusal": Recipe(
        RefusalArguments,
        "refusal",
        refusal_task,
        "A language model that was to refuse harmful requests, also after it is fine-tuned.",
    ),
}


def run_recipe(name: str, arguments: Sequence[str] | None = None, program: str | None = None) -> None:
    """Runs the recipe of that name; see [`~trl_tar.pipeline.steps.run`].

    Args:
        name (`str`):
            A key of `RECIPES`.
        arguments (`Sequence[str]`, *optional*):
            As on the command line; by default those of this process.
        program (`str`, *optional*):
            What a refusal begins with; by default the name of this process's script.
    """
    run(RECIPES[name], RECIPES[name].arguments, TARConfig, arguments=arguments, program=program)
