"""Tamper-resistant training, phase 2 (https://huggingface.co/papers/2408.00761)."""

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import AutocastKwargs
from datasets import Dataset
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTTrainer

from ..adversaries.adversary import Adversary, AttackDiverged
from ..adversaries.data_order import check_adversary_batches, draw_batches, draw_rows
from ..data.dataset_types import check_dataset
from ..data.entities import check_disjoint
from ..data.tokenisation import drop_fused_head, tokenised_pairs, tokenised_rows
from ..distributed.device_groups import device_group
from ..distributed.gradients import Batch, LossFunction, all_reduce, consumed_gradient, mean_gradient, means
from ..distributed.sharding import all_parts, inner_product, is_sharded, like, total_norm, whole
from ..losses import (
    IGNORED,
    TAMPER_RESISTANCE_LOSSES,
    dpo_loss,
    inner_weight,
    language_modeling_loss,
    representation_loss,
    sequence_log_probs,
)
from ..models.forward_passes import in_eval_mode, next_token_logits
from ..models.tokenizers import check_tokenizer, tokenizer_of
from ..optim.offload import StateOnHost, host_like, park, to_host
from ..optim.schedule_free import AveragedWeightsMixin
from ..optim.stochastic_rounding import at_least_float32, in_bfloat16, step_in_float32
from ..simulation.attack_steps import attack_steps
from ..simulation.batches import Batches
from ..simulation.restored import Attacked, restored, swapped_in
from .anchor import check_anchor, save_anchor
from .data_checks import (
    check_reference,
    check_retain_rows,
    check_tamper_resistance_rows,
    check_train_and_eval_datasets,
    checked_adversaries,
)
from .model_checks import (
    MODEL_INIT_KWARGS,
    check_8bit,
    check_adapters,
    check_bfloat16,
    check_launch,
    check_memory_modes,
    check_weights,
)
from .publishing import EvidenceCardMixin
from .refused_options import check_refused_arguments
from .tar_config import TARConfig


class TARTrainer(EvidenceCardMixin, AveragedWeightsMixin, SFTTrainer):
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
            The safeguarded model, θ_G0: the anchor is its hidden states at construction. A path is loaded in float32.
            Weights in bfloat16 are stepped in float32 and rounded back by chance.
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
            Other reference for the anchor than θ_G0.
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
    _paper = {
        "title": "Tamper-Resistant Safeguards for Open-Weight LLMs",
        "id": "2408.00761",
        # docstyle-ignore
        "citation": """\
@inproceedings{tamirisa2025tamperresistant,
    title        = {Tamper-Resistant Safeguards for Open-Weight {LLM}s},
    author       = {Rishub Tamirisa and Bhrugu Bharathi and Long Phan and others},
    year         = 2025,
    booktitle    = {The Thirteenth International Conference on Learning Representations},
}""",
    }
    loss_is_scaled_for_ga = True  # compute_loss divides by the counts of all micro-batches

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: TARConfig | None = None,
        data_collator: Any | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        tamper_resistance_dataset: Dataset,
        adversaries: Iterable[Adversary],
        adversary_datasets: Mapping[str, Dataset],
        ref_model: PreTrainedModel | None = None,
        peft_config: Any | None = None,
        **kwargs,
    ):
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            args = TARConfig(f"{name.split('/')[-1]}-TAR")
        args.check()
        check_refused_arguments("TARTrainer", kwargs)
        if isinstance(model, str):
            args.model_init_kwargs = {**MODEL_INIT_KWARGS, **(args.model_init_kwargs or {})}
        processing_class = tokenizer_of(model, processing_class, args.pad_token)
        self.adversaries = checked_adversaries(adversaries, adversary_datasets, args)
        pairs = args.tamper_resistance_loss == "dpo"
        formatted = kwargs.get("formatting_func") is not None
        check_train_and_eval_datasets(train_dataset, eval_dataset, args.dataset_text_field, formatted)
        check_dataset("tamper_resistance_dataset", tamper_resistance_dataset, pairs, args.dataset_text_field)
        check_disjoint(train_dataset, tamper_resistance_dataset, self.adversaries, adversary_datasets)
        check_tokenizer(processing_class, model)
        if not isinstance(model, str):
            check_weights(model, bfloat16=True)
        super().__init__(
            model,
            args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            peft_config=peft_config,
            **kwargs,
        )
        drop_fused_head(self.model)
        check_weights(self.model, bfloat16=True)
        check_bfloat16(self.model, args, self.adversaries, self.is_fsdp_enabled)
        check_8bit(self.model, self.adversaries, self.is_fsdp_enabled)
        check_adapters(self.model, self.adversaries)
        check_launch(self)
        check_memory_modes(args, self.adversaries, self.is_fsdp_enabled)
        self._devices = device_group(self.accelerator, args.adversary_parallel_size, self.is_fsdp_enabled)
        check_retain_rows(self)
        if args.offload:  # autocast would keep a copy of all weights in bfloat16 through each pass
            self.accelerator.autocast_handler = AutocastKwargs(cache_enabled=False)

        self.ref_model = ref_model
        if ref_model is not None:
            check_reference(ref_model, self.model)
            ref_model.to(self.accelerator.device).eval()
        self._outer_names = [name for name, p in self.model.named_parameters() if p.requires_grad]
        self._outer_parameters = [p for p in self.model.parameters() if p.requires_grad]
        copied = to_host if args.offload else torch.clone
        self._reference = [(p, copied(p.detach())) for p in self._outer_parameters]  # θ_G0
        pad, dtype = processing_class.pad_token_id, at_least_float32(self._outer_parameters[0])
        self._batches = Batches(self.accelerator, self._devices, pad, dtype, args.max_length, args.truncation_mode)
        objectives = {name: a.objective for a in self.adversaries for name in a.datasets}
        tokenised = {"sft": tokenised_rows, "dpo": tokenised_pairs}
        self._adversary_rows = {
            name: tokenised[objective](self, adversary_datasets[name], name) for name, objective in objectives.items()
        }
        check_adversary_batches(self.adversaries, self._adversary_rows)
        self._tamper_resistance_objective = "dpo" if pairs else "sft"
        self._tamper_resistance_rows = tokenised[self._tamper_resistance_objective](
            self, tamper_resistance_dataset, "tamper-resistance"
        )
        check_tamper_resistance_rows(self._tamper_resistance_rows, args)
        self._g_retain: list[torch.Tensor] = []
        self._g_tr: list[torch.Tensor] = []
        self._attack_records: list[dict[str, float]] = []
        self._snapshot_room: list[torch.Tensor] = []
        self._gradient_room: list[torch.Tensor] = []
        self._state_on_host: StateOnHost | None = None
        self._rounding: torch.Generator | None = None
        self._retain_norm = torch.zeros(())
        self._sharded = False
        self._retain_counts: torch.Tensor | None = None
        self._retain_sums = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """One outer step of TAR (Algorithm 1, https://huggingface.co/papers/2408.00761)."""
        retain_loss = super().training_step(model, inputs, num_items_in_batch)  # .grad = λ_retain ∇L_retain(θ)
        if not self.accelerator.sync_gradients:  # more micro-batches of this step to come
            return retain_loss
        self._g_retain, self._g_tr = g_retain, g_tr = self._taken_gradient(), []
        for index, adversary in self._devices.share(enumerate(self.sample_adversaries())):  # attack ~ A_train
            x_tr = self.sample_tamper_resistance_batch(index)  # x_TR ~ D_TR, one for the whole attack
            with (
                restored(
                    self.model, adversary, self._number("attack", index), self._snapshot_room, self.args.offload
                ) as attacked,
                self._recorded(attacked, adversary),
            ):
                for step in self.attack_steps(attacked, adversary, index):  # θ back on exit, always
                    self.add_tamper_resistance_gradient(g_tr, attacked, adversary, x_tr, step)
        self._set_outer_gradient(g_retain, g_tr)
        if self._rounding is not None:
            self._rounding.manual_seed(self._number("rounding"))
        self._g_retain, self._g_tr = [], []
        return retain_loss

    def sample_adversaries(self) -> list[Adversary]:
        """The S adversaries of this outer step: a function of (seed, step), the same on all devices."""
        rng = random.Random(self._draw("adversaries"))
        weights = [a.weight for a in self.adversaries]
        return rng.choices(self.adversaries, weights, k=self.args.adversaries_per_step)

    def sample_tamper_resistance_batch(self, index: int) -> list[Batch]:
        """This device's share of x_TR for the `index`-th attack of this outer step, in micro-batches."""
        size, draw = self.args.tamper_resistance_batch_size, self._draw("tamper-resistance", index)
        chosen = draw_rows(len(self._tamper_resistance_rows), size, draw)
        rows = [self._tamper_resistance_rows[i] for i in chosen]
        return self._batches.micro_batches(
            rows, self._tamper_resistance_objective, self.args.tamper_resistance_micro_batch_size, self._sharded
        )

    def attack_steps(self, attacked: Attacked, adversary: Adversary, index: int) -> Iterator[int]:
        """Runs the `index`-th attack of this outer step; yields k wherever L_TR is to be taken, at θ_{k+1}."""
        sizes = {name: len(rows) for name, rows in self._adversary_rows.items()}
        drawn = draw_batches(adversary, sizes, self._draw("attack", index))
        batches: Iterable[list[Batch]] = (
            self._batches.micro_batches(
                [self._adversary_rows[name][i] for name, i in rows],
                adversary.objective,
                adversary.micro_batch_size,
                self._sharded,
            )
            for rows in drawn
        )
        if adversary.objective == "dpo":  # its reference is θ, which the model still is
            batches = list(batches)
            self._batches.add_reference(attacked.model, itertools.chain(*batches))
        return attack_steps(
            attacked,
            adversary,
            batches,
            self._adversary_loss(adversary),
            self.args.tamper_resistance_interval,
            self.args.optimizer_in_backward,
            self._devices.inside,
        )

    def add_tamper_resistance_gradient(
        self, g_tr: list[torch.Tensor], attacked: Attacked, adversary: Adversary, x_tr: list[Batch], step: int
    ) -> None:
        """g_TR += λ_TR / S · w_k ∇L_TR(θ_{k+1}), straight through the attack (first-order MAML)."""
        args = self.args
        weight = inner_weight(
            step,
            adversary.num_steps,
            args.tamper_resistance_interval,
            args.inner_weighting,
            args.inner_weighting_rate,
        )
        weight = args.tamper_resistance_weight * weight / args.adversaries_per_step
        if not g_tr:
            g_tr.extend(torch.zeros_like(p, dtype=at_least_float32(p)) for p in self._outer_parameters)
        if args.optimizer_in_backward:
            attacked.tamper_resistance_losses.append(self._add_in_backward(g_tr, attacked.model, x_tr, weight, step))
            return
        sums, gradient = mean_gradient(
            attacked.model, self._outer_parameters, x_tr, self._tamper_resistance_loss, self._devices.inside
        )
        (loss,) = means([sums])
        if args.tamper_resistance_loss == "negative_cross_entropy":
            bounded = max(loss, -math.log(attacked.model.config.vocab_size))
            if bounded > loss:  # clamped: no gradient
                loss, weight = bounded, 0.0
        if not total_norm(gradient).isfinite():
            raise AttackDiverged(f"gradient of the tamper-resistance loss after step {step}")
        attacked.tamper_resistance_losses.append(loss)
        for total, g in zip(g_tr, gradient, strict=True):
            total.add_(g, alpha=weight)

    def _add_in_backward(
        self, g_tr: list[torch.Tensor], model: nn.Module, x_tr: list[Batch], weight: float, step: int
    ) -> float:
        """The same with no gradient beside g_TR, which is lost where one is not finite."""
        totals = dict(zip(self._outer_parameters, g_tr, strict=True))

        def add(p: nn.Parameter, gradient: torch.Tensor) -> None:
            totals[p].add_(gradient, alpha=weight)

        sums = consumed_gradient(model, self._outer_parameters, x_tr, self._tamper_resistance_loss, add)
        if not total_norm(g_tr).isfinite():
            for total in g_tr:
                total.zero_()
            raise AttackDiverged(f"gradient of the tamper-resistance loss after step {step}")
        return means([sums])[0]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """λ_retain [L_LM(θ) + λ_rep · L_rep(θ)] (Eq. 2), this micro-batch's part of the mean over the global batch."""
        args = self.args
        anchored = args.representation_weight > 0
        labels = inputs["labels"]
        arguments = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
        arguments |= {"output_hidden_states": anchored, "use_cache": False}
        reference = self._reference_hidden_states(arguments) if anchored else ()
        outputs = model(**arguments)
        sums = [language_modeling_loss(outputs.logits, labels)]
        if anchored:
            squared = args.representation_loss == "l2_squared"
            mask = inputs["attention_mask"]
            sums.append(representation_loss(outputs.hidden_states, reference, mask, squared))
        if model.training:
            counts = self._retain_counts.clamp(min=1)  # rows of one token leave nothing to predict
            devices = self.accelerator.num_processes  # DDP averages over devices
            self._retain_sums[: len(sums)] += torch.stack([total.detach().double() for total, _ in sums])
        else:
            counts, devices = torch.stack([count for _, count in sums]), 1
        losses = [total / count for (total, _), count in zip(sums, counts, strict=False)]
        loss = losses[0] + args.representation_weight * losses[1] if anchored else losses[0]
        loss = args.retain_weight * loss * devices
        return (loss, outputs) if return_outputs else loss

    def _prepare_for_training(self, *args, **kwargs):
        prepared = super()._prepare_for_training(*args, **kwargs)
        if is_sharded(self.model) and not self._sharded:
            self._sharded = True  # FSDP2 has put new parameters in the place of those that the constructor saw
            parameters = dict(self.model.named_parameters())
            self._outer_parameters = [parameters[name] for name in self._outer_names]
            self._reference = [
                (p, like(value, p)) for p, (_, value) in zip(self._outer_parameters, self._reference, strict=True)
            ]
        self._add_reference_to_pairs()  # not before, as FSDP2 leaves the model on the host until now
        return prepared

    def _add_reference_to_pairs(self) -> None:
        """Log-probabilities of θ_G0 for the pairs of D_TR, once; also where a checkpoint was loaded."""
        rows = self._tamper_resistance_rows
        if self._tamper_resistance_objective == "dpo" and "reference_log_probs" not in rows[0]:
            with swapped_in(self.model, self._reference):
                self._batches.add_reference_to_rows(self.model, rows, self.args.tamper_resistance_micro_batch_size or 8)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Counts what the retain means divide by, over all micro-batches and devices of this outer step."""
        batches, num_items_in_batch = super().get_batch_samples(epoch_iterator, num_batches, device)
        hidden_states = self.model.config.get_text_config().num_hidden_layers + 1
        counts = torch.zeros(2, dtype=torch.float64, device=device)
        for batch in batches:
            counts[0] += (batch["labels"][:, 1:] != IGNORED).sum()
            counts[1] += batch["attention_mask"].sum() * hidden_states
        all_reduce([counts])
        self._retain_counts = counts
        self._retain_sums.zero_()
        return batches, num_items_in_batch

    def _reference_hidden_states(self, arguments: dict) -> tuple[torch.Tensor, ...]:
        if self.ref_model is not None:
            with torch.no_grad(), self.accelerator.autocast():
                return self.ref_model(**arguments).hidden_states
        with swapped_in(self.model, self._reference), in_eval_mode(self.model):
            return self.model(**arguments).hidden_states

    def _adversary_loss(self, adversary: Adversary) -> LossFunction:
        def sft(model: nn.Module, batch: Batch):
            return language_modeling_loss(next_token_logits(model, batch), batch["labels"])

        def dpo(model: nn.Module, batch: Batch):
            log_probs = sequence_log_probs(next_token_logits(model, batch), batch["labels"])
            return dpo_loss(log_probs, batch["reference_log_probs"], adversary.beta)

        return {"sft": sft, "dpo": dpo}[adversary.objective]

    def _tamper_resistance_loss(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        logits = next_token_logits(model, batch)
        if self.args.tamper_resistance_loss == "dpo":
            log_probs = sequence_log_probs(logits, batch["labels"])
            return dpo_loss(log_probs, batch["reference_log_probs"], self.args.beta)
        return TAMPER_RESISTANCE_LOSSES[self.args.tamper_resistance_loss](logits, batch["labels"])

    def _taken_gradient(self) -> list[torch.Tensor]:
        """The retain gradient, taken from `.grad`; with `offload` to the host."""
        taken = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self._outer_parameters]
        self._retain_norm = total_norm(taken).double()
        if self.args.offload:
            if not self._gradient_room:
                self._gradient_room = list(map(host_like, taken))
            taken = [park(g, room) for g, room in zip(taken, self._gradient_room, strict=True)]
        for p in self._outer_parameters:
            p.grad = None
        return taken

    def _set_outer_gradient(self, g_retain: list[torch.Tensor], g_tr: list[torch.Tensor]) -> None:
        """`.grad` = their sum, for which g_tr is emptied; norms, cosine and what was recorded of the attacks into the log."""
        g_tr = g_tr or [torch.zeros_like(p, dtype=at_least_float32(p)) for p in self._outer_parameters]
        if self._devices.groups > 1:
            all_reduce(g_tr, self._devices.across)
        retain, tamper = self._retain_norm, total_norm(g_tr).double()
        products = []
        g_tr.reverse()
        for p, r in zip(self._outer_parameters, g_retain, strict=True):
            g = g_tr.pop()  # not kept beside `.grad`, which has the precision of the weights
            r = r.to(g, non_blocking=True)
            products.append(inner_product(r, g))
            p.grad = g.add_(r).to(p.dtype)
        product = all_parts(torch.stack(products).sum(), self._outer_parameters)
        all_reduce([self._retain_sums])
        losses = self._retain_sums / self._retain_counts
        if self._retain_counts[0] > 0:  # else no row of the batch had a token to predict
            self._record("retain_loss/lm", losses[0].item())
        if self.args.representation_weight > 0:
            self._record("retain_loss/representation", losses[1].item())
        self._record("grad_norm/retain", retain.item())
        self._record("grad_norm/tamper_resistance", tamper.item())
        if retain > 0 and tamper > 0:
            self._record("grad_cosine", (product / (retain * tamper)).item())
        for record in self._devices.gathered(self._attack_records):
            for name, value in record.items():
                self._record(name, value)
        self._attack_records = []

    @contextmanager
    def _recorded(self, attacked: Attacked, adversary: Adversary) -> Iterator[None]:
        """Records one attack; one that diverges ends here, and what it had given so far stays in g_TR."""
        record = {"attacks_diverged": 0.0}
        try:
            yield
        except AttackDiverged:
            record["attacks_diverged"] = 1.0
        for other in self.adversaries:  # the log averages: the share of attacks that each had
            record[f"adversary/{other.name}"] = float(other is adversary)
        for name, losses in [
            ("adversary_loss", attacked.losses),
            ("tamper_resistance_loss", attacked.tamper_resistance_losses),
        ]:
            if losses:
                record |= {f"{name}/first": losses[0], f"{name}/last": losses[-1]}
        self._attack_records.append(record)

    def _record(self, name: str, value: float) -> None:
        self._metrics["train"][name].append(value)

    def _draw(self, what: str, *index: int) -> str:
        """Names what is drawn at this outer step: a seed of its own, the same on all devices and after a stop."""
        return " ".join(map(str, (self.args.seed, what, self.state.global_step, *index)))

    def _number(self, what: str, *index: int) -> int:
        """The same as a number."""
        return random.Random(self._draw(what, *index)).getrandbits(31)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        # here, so that `trainer_state.json` is the last file of a complete checkpoint
        save_anchor(output_dir, (whole(value) for _, value in self._reference), self.args.should_save)

    def create_optimizer(self, *args, **kwargs):
        optimizer = super().create_optimizer(*args, **kwargs)
        if in_bfloat16(self._outer_parameters) and self._rounding is None:
            self._rounding = torch.Generator(self.accelerator.device)
            step_in_float32(optimizer, self._rounding)
        if self.args.offload and self._state_on_host is None:
            self._state_on_host = StateOnHost(optimizer)
        return optimizer

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self._state_on_host is not None:
            self._state_on_host.park()
        if checkpoint is not None:
            check_anchor(checkpoint, (whole(value) for _, value in self._reference))
