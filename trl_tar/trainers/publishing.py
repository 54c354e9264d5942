"""How trainers write model cards and push: with the evidence of a red team, or saying that there is none."""

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adversaries.adversary import Adversary
from ..files import write_text
from .recorded_settings import decisive


if TYPE_CHECKING:
    from ..report.report import Report


class EvidenceCardMixin:
    """Gives a trainer cards and pushes that call no model safe that nobody has attacked."""

    args: Any
    state: Any
    adversaries: Iterable[Adversary] = ()

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Writes a card that says "not attacked", unless the folder has a report: its card stays."""
        from ..report.report import FILE_NAME

        folder = Path(self.args.output_dir)
        if self.is_world_process_zero() and not (folder / FILE_NAME).is_file():
            self._write_unattacked_card(folder, model_name or folder.name)

    def _write_unattacked_card(self, folder: Path, title: str) -> None:
        from ..hub.model_files import adapter_base
        from ..views.card import unattacked_card

        card = unattacked_card(title, self._description(), base=adapter_base(folder))
        write_text(folder / "README.md", card)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model. A card in the folder that is about other weights is replaced by one that says "not attacked"."""
        from ..hub.evidence_folder import belongs

        super().save_model(output_dir, _internal_call)
        folder = Path(output_dir or self.args.output_dir)
        if self.is_world_process_zero() and (folder / "README.md").is_file() and belongs(folder) is False:
            self._write_unattacked_card(folder, folder.name)

    def push_to_hub(
        self,
        commit_message: str | None = None,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        report: "Report | None" = None,
        **kwargs,
    ) -> str | None:
        """Pushes the model with the evidence on it, in one commit; see [`~trl_tar.publish`].

        Args:
            commit_message, token, revision, private (*optional*):
                As in [`~transformers.Trainer`].
            blocking (`bool`, *optional*, defaults to `True`):
                Only `True`: what is published has been checked.
            report ([`Report`], *optional*):
                A red team's, on this very model; by default the `report.json` in the output folder. Without one, or after
                further training, the card says that the model was not attacked.

        Returns:
            `str`: address of the commit, on the first process.
        """
        from ..hub.evidence_folder import own_report
        from ..hub.publishing import publish
        from ..report.build import judged_again

        if not blocking or kwargs:
            raise ValueError(
                f"push_to_hub has {'blocking=False' if not blocking else min(kwargs)}, which it does not take. Leave it out."
            )
        folder = self.args.output_dir
        self.save_model(folder, _internal_call=True)
        if not self.is_world_process_zero():
            return None
        if report is None:
            report = own_report(Path(folder))
        elif report.training is None:
            report = judged_again(replace(report, training={"phases": [self._phase()]}))
        private = self.args.hub_private_repo if private is None else private
        return publish(
            folder,
            self.args.hub_model_id or Path(folder).name,
            report or False,
            description=None if report is not None and "card" in report.config else self._description(),
            private=private,
            token=token or self.args.hub_token,
            revision=revision or self.args.hub_revision,
            commit_message=commit_message,
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Does nothing: transformers would push `training_args.bin` from here, a pickle with the token, and no evidence."""

    def _description(self) -> str:
        """One sentence for a card: which trainer trained the model, and by which paper."""
        paper = f", see [the paper](https://huggingface.co/papers/{self._paper['id']})" if self._paper else ""
        return f"Trained with {type(self).__name__} of [trl-tar](https://pypi.org/project/trl-tar){paper}."

    def _phase(self) -> dict[str, Any]:
        """This training as a phase of a report's `training`."""
        settings = decisive(self.args.to_dict())
        return {
            "name": self._name,
            "settings": settings,
            "adversaries": [asdict(adversary) for adversary in self.adversaries],
        }
