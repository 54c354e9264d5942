"""Small attacks on a small Llama: models, data sets, metrics, and a red team of them."""

from dataclasses import dataclass

import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from trl_tar import Adversary
from trl_tar.evaluation.scores import Scores
from trl_tar.red_teaming import red_team, search
from trl_tar.red_teaming.trials import SearchResult
from trl_tar.report.report import Report
from trl_tar.testbed.knowledge.world import KnowledgeWorld


WORLD = KnowledgeWorld(0)
TOKENIZER = WORLD.tokenizer()
FAST = {"learning_rate": 1e-2, "num_steps": 10, "batch_size": 8}
# one table of attacks for every conformance test
ATTACKS = [
    Adversary("adamw", "forget", **FAST),
    Adversary("adamw-accumulated", "forget", micro_batch_size=4, **FAST),
    Adversary("clipped", "forget", max_grad_norm=0.5, **FAST),
    Adversary("lora", "forget", lora_r=4, **FAST),
    Adversary("mixture", mixture={"forget": 0.5, "retain": 0.5}, **FAST),
    Adversary("retain-forget", "forget", first_dataset="retain", switch_at=0.4, **FAST),
    Adversary("schedule-free", "forget", optimizer="schedule_free_adamw", warmup_steps=4, **FAST),
    Adversary("adamw-8bit", "forget", optimizer="adamw_8bit", **FAST),
    Adversary("sgd-nesterov", "forget", optimizer="sgd", momentum=0.9, nesterov=True, **FAST),
    Adversary("adagrad", "forget", optimizer="adagrad", **FAST),
    Adversary("adadelta", "forget", optimizer="adadelta", **{**FAST, "learning_rate": 1.0}),
    Adversary("cosine", "forget", lr_scheduler="cosine", warmup_steps=3, **FAST),
    Adversary("restarts", "forget", lr_scheduler="cosine_with_restarts", **FAST),
    # SGD: where chosen and rejected share a context their gradients cancel, and Adam would blow up what rounding leaves
    Adversary("dpo", "pairs", objective="dpo", optimizer="sgd", momentum=0.9, **FAST),
    Adversary("dpo-lora", "pairs", objective="dpo", optimizer="sgd", lora_r=4, **{**FAST, "learning_rate": 1.0}),
]


def tiny_model(seed: int = 0) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(TOKENIZER),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=True,
        pad_token_id=TOKENIZER.pad_token_id,
        bos_token_id=TOKENIZER.bos_token_id,
        eos_token_id=TOKENIZER.eos_token_id,
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config)


def raw_data() -> dict[str, Dataset]:
    data = WORLD.datasets()
    rows = data["forget"]
    rejected = rows["completion"][1:] + rows["completion"][:1]
    pairs = Dataset.from_dict({"prompt": rows["prompt"], "chosen": rows["completion"], "rejected": rejected})
    keep = {name: data[name].select(range(96)) for name in ("forget", "retain")}
    return {**keep, "pairs": pairs.select(range(96))}


@dataclass(frozen=True)
class Likelihood:
    """Share of four sentences' words that are likelier than at random; stands in for a question set."""

    words: int

    def __call__(self, model, tokenizer) -> Scores:
        ids = tokenizer(["the a of b is c"], return_tensors="pt")["input_ids"].to(model.device)
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits[0, -1]
        return Scores((logits[: self.words] > 0).float().tolist(), [str(i % 5) for i in range(self.words)])


METRICS = {
    "harm": Likelihood(40),
    "capability": Likelihood(60),
    "bystander": Likelihood(80),
    "validation_harm": Likelihood(20),
}
SHORT = {"learning_rate": 1e-2, "num_steps": 2, "batch_size": 4}
SUITE = [Adversary("full", "forget", **SHORT), Adversary("lora", "forget", lora_r=2, **SHORT)]


def attacked(raw, tmp_path, **changes) -> Report:
    arguments = {
        "model": tiny_model(),
        "adversaries": SUITE,
        "datasets": {"forget": raw["forget"]},
        "metrics": METRICS,
        "seeds": [0, 1],
        "references": {"base": tiny_model(1), "twin": tiny_model(2), "floor": tiny_model(3)},
        "output_dir": tmp_path,
        "processing_class": TOKENIZER,
        "zero_step_attacks": {"cue_swap": Likelihood(30)},
        "max_length": 32,
    }
    return red_team(**{**arguments, **changes})


def space(trial) -> Adversary:
    rate = trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True)
    rank = trial.suggest_categorical("lora_r", [None, 2])
    return Adversary("searched", "forget", learning_rate=rate, lora_r=rank, num_steps=2, batch_size=4)


def searched(folder, **changes) -> SearchResult:
    arguments = {
        "model": tiny_model(),
        "space": space,
        "datasets": {"forget": raw_data()["forget"]},
        "metrics": METRICS,
        "twin": tiny_model(1),
        "output_dir": folder,
        "num_trials": 4,
        "processing_class": TOKENIZER,
        "max_length": 32,
    }
    return search(**{**arguments, **changes})
