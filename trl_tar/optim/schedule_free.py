"""Schedule-Free optimizers save the averaged point x, not the point y where gradients are taken."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate.optimizer import AcceleratedOptimizer
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.training_args import OptimizerNames

from ..distributed.sharding import like, reshard, saved_whole, whole


TRAINING_WEIGHTS_FILE = "schedule_free_y.safetensors"


def is_schedule_free(optimizer: torch.optim.Optimizer) -> bool:
    """Tells whether the optimizer takes gradients at another point than the one that the model is to be judged at."""
    return "train_mode" in optimizer.param_groups[0]


class AveragedWeightsMixin:
    """Makes a [`~transformers.Trainer`] save, evaluate and return a Schedule-Free model at its averaged point.

    In transformers, only evaluation leaves the training point y, so a save or the end of training would keep y. The
    step from x back to y rounds, so checkpoints hold y next to x: resuming is then bitwise the run without a stop.
    """

    _in_checkpoint = False

    def _schedule_free(self) -> torch.optim.Optimizer | None:
        wrapped = isinstance(self.optimizer, AcceleratedOptimizer)
        optimizer = self.optimizer.optimizer if wrapped else self.optimizer
        return optimizer if optimizer is not None and is_schedule_free(optimizer) else None

    @contextlib.contextmanager
    def averaged(self) -> Iterator[list[torch.Tensor]]:
        """Holds the model at x, and puts exactly the same y back on exit. Yields y, which is empty where nothing is averaged."""
        optimizer = self._schedule_free()
        if optimizer is None or not optimizer.param_groups[0]["train_mode"]:
            yield []
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        training_point = [p.detach().clone() for p in parameters]
        optimizer.eval()
        reshard(self.model)
        try:
            yield training_point
        finally:
            self._return_to(training_point)

    def _return_to(self, training_point: list[torch.Tensor]) -> None:
        optimizer = self._schedule_free()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        with torch.no_grad():
            for p, y in zip(parameters, training_point, strict=True):
                p.copy_(y if isinstance(y, DTensor) else like(y, p))
        reshard(self.model)
        for group in optimizer.param_groups:
            group["train_mode"] = True

    def train(self, *args, **kwargs):
        try:
            return super().train(*args, **kwargs)
        finally:  # also where training was interrupted
            optimizer = self._schedule_free()
            if optimizer is not None:
                optimizer.eval()

    def _load_best_model(self) -> None:
        super()._load_best_model()
        optimizer = self._schedule_free()
        if optimizer is not None:
            for group in optimizer.param_groups:  # what was saved, and is now loaded, is x
                group["train_mode"] = False

    def evaluation_loop(self, *args, **kwargs):
        with self.averaged():
            return super().evaluation_loop(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        with self.averaged(), contextlib.nullcontext() if self._in_checkpoint else saved_whole(self.accelerator):
            super().save_model(output_dir, _internal_call)

    def _save_checkpoint(self, model, trial) -> None:
        # FSDP2 makes the folder later than transformers looks for it, to remember it as the best model's
        folder = Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        folder.mkdir(parents=True, exist_ok=True)
        with self.averaged() as training_point:
            self._training_point, self._in_checkpoint = training_point, True
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._training_point, self._in_checkpoint = [], False

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        tensors = {str(i): whole(y).cpu().contiguous() for i, y in enumerate(self._training_point)}
        if tensors and self.args.should_save:
            save_file(tensors, Path(output_dir) / TRAINING_WEIGHTS_FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        optimizer = self._schedule_free()
        if checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        file = Path(checkpoint) / TRAINING_WEIGHTS_FILE
        if file.is_file() != (optimizer is not None):
            raise ValueError(
                f"The checkpoint {str(checkpoint)!r} has {'a' if file.is_file() else 'no'} {TRAINING_WEIGHTS_FILE}, the point "
                f"that a Schedule-Free optimizer steps from, and `optim` is {OptimizerNames(self.args.optim).value!r}. Resume "
                "from a checkpoint of the same trainer and optimizer."
            )
        # torch makes the state of a sharded optimizer by a step, to fill it then
        for group in optimizer.param_groups if optimizer is not None else ():
            group["train_mode"] = True
        super()._load_optimizer_and_scheduler(checkpoint)
        if optimizer is None:
            return
        tensors = load_file(file)
        self._return_to([tensors[str(i)] for i in range(len(tensors))])
