"""Tamper-resistant training, phase 2 (https://huggingface.co/papers/2408.00761)."""

import itertools
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from accelerate.utils import AutocastKwargs
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel

from ..adversaries.adversary import Adversary
from ..adversaries.data_order import check_adversary_batches, draw_batches, draw_rows
from ..data.dataset_types import check_dataset
from ..data.entities import check_disjoint
from ..distributed.device_groups import device_group
from ..distributed.gradients import Batch
from ..losses import IGNORED, inner_weight, kl_divergence_loss, language_modeling_loss, representation_loss
from ..models.forward_passes import add_positions, at_labels, head_at_labels, labelled_logits
from ..models.training_noise import without_dropout
from ..optim.offload import StateOnHost
from ..optim.stochastic_rounding import at_least_float32, in_bfloat16, step_in_float32
from ..papers import TAR_PAPER
from ..simulation.attack_steps import attack_loss, attack_steps
from ..simulation.attacker_pool import Attacker
from ..simulation.batches import Batches
from ..simulation.restored import Attacked, Evaluation, SnapshotRoom, restored
from .attack_log import TAMPER_RESISTANCE, AttackLog
from .continued_attacks import load_pool, new_pool, save_pool
from .data_checks import check_tamper_resistance_rows, checked_adversaries
from .global_means import GlobalMeans
from .honest_users import HonestUsers
from .model_checks import check_8bit, check_adapters, check_bfloat16, check_memory_modes
from .outer_gradient import OuterGradient, OuterTerm
from .reference import Reference, check_anchor, save_anchor
from .safeguard_trainer import SafeguardTrainer
from .tar_config import TARConfig


class TARTrainer(SafeguardTrainer):
    """
    Trainer for tamper-resistant safeguards (TAR), from the paper [Tamper-Resistant Safeguards for Open-Weight
    LLMs](https://huggingface.co/papers/2408.00761).

    Each outer step simulates fine-tuning attacks on the model in place, takes the gradient of a tamper-resistance loss
    at the attacked weights, puts the weights back, and steps with that gradient and the retain gradient
    ([`TARConfig`] states the sum).

    Data sets may be of TRL's language-modeling, prompt-completion, conversational or (for DPO) preference types, raw or
    tokenised.

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The safeguarded model, θ_G0: the anchors are its hidden states and next-token distribution at construction. A path
            is loaded in float32. Weights in bfloat16 are stepped in float32 and rounded back by chance.
        args ([`TARConfig`], *optional*):
            Configuration. If `None`, a default configuration is used.
        train_dataset ([`~datasets.Dataset`]):
            D_retain.
        tamper_resistance_dataset ([`~datasets.Dataset`]):
            D_TR: hazardous text, or preference pairs (chosen = refusal) for `tamper_resistance_loss="dpo"`.
        adversaries (`Iterable[Adversary]`):
            A_train, drawn from by `weight`.
        adversary_datasets (`dict[str, Dataset]`):
            The data sets that the adversaries name.
        ref_model ([`~transformers.PreTrainedModel`], *optional*):
            Other reference for the anchors than θ_G0.
        eval_dataset, processing_class, data_collator, callbacks, optimizers, optimizer_cls_and_kwargs, compute_metrics,
        preprocess_logits_for_metrics, formatting_func, peft_config:
            As in [`~trl.SFTTrainer`]. With `peft_config` the outer update is the adapter, while full-parameter
            adversaries still attack the base weights.

    Raises:
        `ValueError`: for data sets, adversaries and options that cannot be trained with, before anything is trained.

    Example:

    ```python
    from trl_tar import Adversary, TARConfig, TARTrainer

    trainer = TARTrainer(
        model="my-safeguarded-model",
        args=TARConfig("my-tar-model", max_steps=750, per_device_train_batch_size=8),
        train_dataset=retain,
        tamper_resistance_dataset=hazard_held_out,
        adversaries=[Adversary("forget", "forget", learning_rate=2e-5, num_steps=64, batch_size=32)],
        adversary_datasets={"forget": hazard},
    )
    trainer.train()
    ```
    """

    _tag_names = ["trl", "trl-tar", "tamper-resistance"]
    _name = "TAR"
    _paper = TAR_PAPER
    config_class = TARConfig
    takes_bfloat16 = True

    def __init__(
        self,
        *args,
        tamper_resistance_dataset: Dataset,
        adversaries: Iterable[Adversary],
        adversary_datasets: Mapping[str, Dataset],
        ref_model: PreTrainedModel | None = None,
        **kwargs,
    ):
        self.tamper_resistance_dataset, self.adversary_datasets = tamper_resistance_dataset, adversary_datasets
        self.adversaries = adversaries  # a list once check_data has read them
        super().__init__(*args, **kwargs)
        config, accelerator, sharded = self.args, self.accelerator, self.is_fsdp_enabled
        if self.reads_hidden_states(config):
            self.model_outputs.check_hidden_states("the anchor", "Set representation_weight=0 and kl_weight above 0.")
        check_bfloat16(self.model, config, self.adversaries, sharded)
        check_8bit(self.model, self.adversaries, sharded)
        check_adapters(self.model, self.adversaries)
        check_memory_modes(config, self.adversaries, sharded)
        self._devices = device_group(accelerator, config.adversary_parallel_size, sharded)
        if config.offload:  # autocast would keep a copy of all weights in bfloat16 through each pass
            accelerator.autocast_handler = AutocastKwargs(cache_enabled=False)

        self.outer_gradient = OuterGradient(self.model, self._devices, config.offload)
        parameters = self.outer_gradient.parameters
        self.reference = Reference(self.model, parameters, ref_model, accelerator, config.offload)
        self.snapshot_room = SnapshotRoom(config.offload)
        self.attack_log = AttackLog(self.adversaries, self._devices, config.steps_per_visit is not None)
        self.pool = new_pool(config, self.adversaries)
        pad, dtype = self.processing_class.pad_token_id, at_least_float32(parameters[0])
        cut = (config.max_length, config.truncation_mode)
        self._batches = Batches(accelerator, self._devices, pad, dtype, *cut, sharded)
        self._rounding = torch.Generator(accelerator.device)
        if self.optimizer is not None:
            self._prepare_optimizer(self.optimizer)

        objectives = {name: a.objective for a in self.adversaries for name in a.datasets}
        self._adversary_rows = {
            name: self.tokenised(f"adversary_datasets[{name!r}]", adversary_datasets[name], objective)
            for name, objective in objectives.items()
        }
        check_adversary_batches(self.adversaries, self._adversary_rows)
        self.honest_users = HonestUsers(
            self.adversaries, self._adversary_rows, self.train_dataset, self._batches, self.reference, config
        )
        self._tamper_resistance_rows = self.tokenised(
            "tamper_resistance_dataset", tamper_resistance_dataset, config.loss.objective
        )
        check_tamper_resistance_rows(self._tamper_resistance_rows, config)

    def check_data(self, args: TARConfig, train_dataset: Dataset) -> None:
        self.adversaries = checked_adversaries(self.adversaries, self.adversary_datasets, args)
        rows = self.tamper_resistance_dataset
        check_dataset("tamper_resistance_dataset", rows, args.loss.takes_pairs, args.dataset_text_field)
        check_disjoint(train_dataset, rows, self.adversaries, self.adversary_datasets)

    def reads_hidden_states(self, args: TARConfig) -> bool:
        return "representation" in args.retain_weights

    # --- the outer step -----------------------------------------------------------------------------------------------

    def training_step(self, model, inputs, num_items_in_batch=None):
        """One outer step of TAR (Algorithm 1, https://huggingface.co/papers/2408.00761)."""
        retain_loss = super().training_step(model, inputs, num_items_in_batch)  # .grad = λ_retain ∇L_retain(θ)
        if not self.accelerator.sync_gradients:  # more micro-batches of this step to come
            return retain_loss
        self.outer_gradient.take_retain()  # g_retain, off .grad
        for index, attacker in self.attackers():  # attack ~ A_train, a new one or one that goes on
            terms = self.outer_terms(attacker, index)  # L_TR on x_TR ~ D_TR, one batch for the whole visit
            with self.attack(attacker, index) as attacked:  # θ is back on exit, whatever happens
                for step in self.attack_steps(attacked, attacker):
                    self.add_outer_gradient(attacked, attacker, terms, step)  # at θ_{k+1}
        self._log_step(self.outer_gradient.set(self.args.tamper_resistance_max_grad_norm))  # .grad = g_retain + g_TR
        self._rounding.manual_seed(self._seed("rounding"))
        return retain_loss

    def sample_adversaries(self) -> list[Adversary]:
        """The S adversaries of this outer step: a function of (seed, step) and of how long attacks last by now, the same on all
        devices."""
        rng = random.Random(self._seed_name("adversaries"))
        return rng.choices(self.adversaries, map(self.pool.odds, self.adversaries), k=self.args.adversaries_per_step)

    def sample_tamper_resistance_batch(self, index: int) -> list[Batch]:
        """This device's share of x_TR for the `index`-th attack of this outer step, in micro-batches."""
        args, rows = self.args, self._tamper_resistance_rows
        drawn = draw_rows(len(rows), args.tamper_resistance_batch_size, self._seed_name("tamper-resistance", index))
        x_tr = [rows[i] for i in drawn]
        return self._batches.micro_batches(x_tr, args.loss.objective, args.tamper_resistance_micro_batch_size)

    def attackers(self) -> Iterator[tuple[int, Attacker]]:
        """The attackers of this outer step that this device simulates, each with its index among all S."""
        for index, adversary in self._devices.share(enumerate(self.sample_adversaries())):
            turn = self.state.global_step * self.args.adversaries_per_step + index
            yield index, self.pool.attacker(turn, adversary, self._seed_name("attack", index))

    def outer_terms(self, attacker: Attacker, index: int) -> list[OuterTerm]:
        """The losses that the attacker's visit is judged by: λ_TR L_TR, or those of an honest user. The model is at θ."""
        args = self.args
        if attacker.adversary.role == "benign":
            return self.honest_users.terms(attacker, self._seed_name("benign", index))
        x_tr, bound = self.sample_tamper_resistance_batch(index), args.loss.bound
        least = None if bound is None else bound(self.model_outputs.vocabulary)
        return [OuterTerm(TAMPER_RESISTANCE, args.tamper_resistance_weight, x_tr, self._tamper_resistance_loss, least)]

    @contextmanager
    def attack(self, attacker: Attacker, index: int) -> Iterator[Attacked]:
        """Opens the model to the `index`-th attacker of this outer step, and records its visit. On exit the model is as it
        was."""
        seed = self._seed("attack", index)
        with restored(self.model, attacker.adversary, seed, self.snapshot_room) as attacked:
            with self.attack_log.recorded(attacked, attacker), self.pool.visited(attacker, attacked):
                yield attacked

    def attack_steps(self, attacked: Attacked, attacker: Attacker) -> Iterator[int]:
        """Makes the steps of a visit; yields k, counted from the visit's first step, wherever it is judged, at θ_{k+1}."""
        adversary, all_rows = attacker.adversary, self._adversary_rows
        if adversary.role == "benign":
            all_rows = self.honest_users.rows(attacker)
        order = draw_batches(adversary, {name: len(rows) for name, rows in all_rows.items()}, attacker.seed)
        batches: Iterable[list[Batch]] = (
            self._batches.micro_batches(
                [all_rows[name][i] for name, i in drawn], adversary.objective, adversary.micro_batch_size
            )
            for drawn in itertools.islice(order, attacker.age, attacker.age + attacker.visit)
        )
        if adversary.objective == "dpo":  # its reference is today's θ, which the model still is
            batches = list(batches)
            self._batches.add_reference(attacked.model, itertools.chain(*batches))
        attacker.lay_displacement(attacked)
        return attack_steps(
            attacked,
            adversary,
            batches,
            attack_loss(adversary),
            self.args.tamper_resistance_interval,
            self.args.optimizer_in_backward,
            self._devices.inside,
            None if attacker.visit == adversary.num_steps else attacker.progress,
        )

    def add_outer_gradient(self, attacked: Attacked, attacker: Attacker, terms: list[OuterTerm], step: int) -> None:
        """g_TR += λ / S · w_k ∇L(θ_{k+1}) for each term. Raises `AttackDiverged` for a gradient that is not finite."""
        args = self.args
        rate = args.inner_weighting_rate
        w_k = inner_weight(step, attacker.visit, args.tamper_resistance_interval, args.inner_weighting, rate)
        for term in terms:
            with without_dropout(attacked.model):
                loss = self.outer_gradient.evaluate(
                    attacked.model, term, w_k / args.adversaries_per_step, args.optimizer_in_backward
                )
            attacked.evaluations.append(Evaluation(term.name, attacker.age + step + 1, loss))

    def _tamper_resistance_loss(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        return self.args.loss(*labelled_logits(model, batch), batch.get("reference_log_probs"), self.args.beta)

    # --- the retain term ----------------------------------------------------------------------------------------------

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """λ_retain [λ_LM · L_LM(θ) + λ_rep · L_rep(θ) + λ_KL · L_KL(θ)], this micro-batch's part of the mean over the global
        batch. With λ_LM = 1 and λ_KL = 0 it is Eq. 2 of https://huggingface.co/papers/2408.00761."""
        args, weights = self.args, self.args.retain_weights
        mask = inputs["attention_mask"]
        arguments = {"input_ids": inputs["input_ids"], "attention_mask": mask, "use_cache": False}
        arguments["output_hidden_states"] = "representation" in weights
        anchor: tuple = ((), None)
        if len(weights) > 1:  # anchored by hidden states, at the output, or both
            anchor = self.reference.outputs(inputs, "representation" in weights, "kl" in weights)
        with head_at_labels(self.model, inputs):
            outputs = model(**arguments)
        logits, labels = at_labels(outputs.logits, inputs)
        pairs = [language_modeling_loss(logits if weights["lm"] else logits.detach(), labels)]
        if "representation" in weights:
            pairs.append(representation_loss(outputs.hidden_states, anchor[0], mask, args.representation_loss))
        if "kl" in weights:
            pairs.append(kl_divergence_loss(logits, anchor[1], labels, args.kl_temperature))
        if model.training:
            self._means.add(torch.stack([total.detach().double() for total, _ in pairs]))
            counts, devices = self._means.counts, self.accelerator.num_processes  # DDP averages over devices
        else:
            counts, devices = torch.stack([count for _, count in pairs]), 1
            self._evaluated.add(torch.stack([total for total, _ in pairs]), counts)
        terms = zip(weights.values(), pairs, counts, strict=True)
        loss = sum(weight * (total / count) for weight, (total, _), count in terms if weight > 0)
        loss = args.retain_weight * loss * devices
        return (loss, outputs) if return_outputs else loss

    def evaluation_loss(self, means):
        """λ_LM · L_LM(θ) + λ_rep · L_rep(θ) + λ_KL · L_KL(θ)."""
        return sum(weight * mean for weight, mean in zip(self.args.retain_weights.values(), means, strict=True))

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Counts what the retain means divide by: tokens to predict, or tokens × hidden states."""
        batches, num_items_in_batch = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = torch.zeros(2, dtype=torch.float64, device=device)
        for batch in batches:
            counts[0] += (batch["labels"][:, 1:] != IGNORED).sum()
            counts[1] += batch["attention_mask"].sum() * len(self.model_outputs.hidden_states)
            add_positions(batch)
        columns = [int(name == "representation") for name in self.args.retain_weights]
        self._means = GlobalMeans(counts[columns])
        return batches, num_items_in_batch

    # --- what surrounds it --------------------------------------------------------------------------------------------

    def _log_step(self, gradient: dict[str, float]) -> None:
        """Logs the retain means, what is known of the outer gradient, and what was recorded of the attacks."""
        retain = dict(zip(self.args.retain_weights, self._means.values(), strict=True))
        known = {f"retain_loss/{name}": mean for name, mean in retain.items() if mean is not None}
        if self.pool.steps_per_visit is not None:
            known["attack_length_maximum"] = self.pool.curriculum.maximum
        records = self.attack_log.taken()
        for name, value in itertools.chain(known.items(), gradient.items(), *(record.values for record in records)):
            self._log(name, value)
        self.pool.curriculum.add(itertools.chain(*(record.evaluations for record in records)))

    def _seed_name(self, what: str, *index: int) -> str:
        """Seed of a draw of this outer step, as a string: a function of the configuration's seed and of the step, so that
        it is the same on all devices and after a stop."""
        return " ".join(map(str, (self.args.seed, what, self.state.global_step, *index)))

    def _seed(self, what: str, *index: int) -> int:
        """Seed of a draw of this outer step, as a number below 2**31, for torch's generators."""
        return random.Random(self._seed_name(what, *index)).getrandbits(31)

    def _prepare_for_training(self, *args, **kwargs):
        prepared = super()._prepare_for_training(*args, **kwargs)
        self.outer_gradient.rebind(self.model)
        self.reference.rebind(self.outer_gradient.parameters)
        if self.args.loss.takes_pairs:  # not before, as FSDP2 leaves the model on the host until now
            self.add_reference_to_pairs()
        return prepared

    def add_reference_to_pairs(self) -> None:
        """Adds the log-probabilities under θ_G0 to the pairs of D_TR, once; also where a checkpoint was loaded."""
        # without a size of its own, a pass has 8 pairs: a choice that no result depends on
        size = self.args.tamper_resistance_micro_batch_size or 8
        self.reference.add_log_probs(self._tamper_resistance_rows, self._batches, size)

    def create_optimizer(self, *args, **kwargs):
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if is_new:
            self._prepare_optimizer(optimizer)
        return optimizer

    def _prepare_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        if in_bfloat16(self.outer_gradient.parameters):
            step_in_float32(optimizer, self._rounding)
        if self.args.offload:
            StateOnHost(optimizer)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        # here, so that `trainer_state.json` is the last file of a complete checkpoint
        save_pool(output_dir, self.pool, self.args, self.adversaries)
        save_anchor(output_dir, self.reference.whole_weights(), self.args.should_save)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            check_anchor(checkpoint, self.reference.whole_weights())
            load_pool(checkpoint, self.pool, self.args, self.adversaries)
