"""TAR in one screen: hide a domain, then train the model to be a bad start for bringing it back.

    python examples/quickstart.py

Two minutes on one core. The world is embedded and its facts are invented; nothing is downloaded.
"""

from datasets import concatenate_datasets

from trl_tar import Adversary, RandomMappingConfig, RandomMappingTrainer, TARConfig, TARTrainer
from trl_tar.testbed import KnowledgeWorld, general_text, knowledge_metrics, knowledge_model


world = KnowledgeWorld(seed=0)
model, tokenizer, data = knowledge_model(world), world.tokenizer(), world.datasets()
common = {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no", "per_device_train_batch_size": 64}


def report(phase):
    metrics = knowledge_metrics(world.seed)
    scores = {name: metrics[name](model, tokenizer).mean() for name in ("harm", "capability", "bystander")}
    print(f"{phase:>15}: " + ", ".join(f"{name} {score:.2f}" for name, score in scores.items()))


report("base")
RandomMappingTrainer(
    model,
    RandomMappingConfig("runs/random-mapping", max_steps=600, learning_rate=3e-4, warmup_steps=50, **common),
    train_dataset=data["retain"],
    forget_dataset=data["safeguard"],
    processing_class=tokenizer,
).train()
report("random mapping")

mix = {"forget": 0.5, "retain": 0.5}
TARTrainer(
    model,
    TARConfig(
        "runs/tar",
        max_steps=100,
        learning_rate=6e-2,
        max_grad_norm=100.0,
        adam_epsilon=0.3,
        tamper_resistance_weight=8.0,
        representation_loss="l2_squared",
        tamper_resistance_batch_size=32,
        **common,
    ),
    train_dataset=concatenate_datasets([data["retain"], general_text(world, model)]),
    tamper_resistance_dataset=data["tamper_resistance"],
    adversaries=[
        Adversary("mix", mixture=mix, learning_rate=1e-3, num_steps=32, batch_size=32),
        Adversary("lora-mix", mixture=mix, learning_rate=2e-3, num_steps=32, batch_size=32, lora_r=8),
    ],
    adversary_datasets={"forget": data["forget"], "retain": data["retain"]},
    processing_class=tokenizer,
).train()
report("TAR")
