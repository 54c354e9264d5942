"""Tamper resistance in one screen: hide a domain with and without simulated attackers, then attack both.

    python examples/quickstart.py

Four minutes on one core. The world is embedded and its facts are invented; nothing is downloaded.
"""

from datasets import concatenate_datasets

from trl_tar import Adversary, TARConfig, TARTrainer
from trl_tar.pipeline.console import quiet
from trl_tar.red_teaming import run_attack
from trl_tar.testbed import KnowledgeWorld, general_text, knowledge_metrics, knowledge_model


quiet()
world = KnowledgeWorld(seed=0)
tokenizer, data, metrics = world.tokenizer(), world.datasets(), knowledge_metrics(world.seed)
kept = concatenate_datasets([data["retain"], general_text(world, knowledge_model(world))])
mix, attackers_mix = {"forget": 0.5, "retain": 0.5}, {"attacker": 0.5, "retain": 0.5}


def hardened(adversaries, **settings):
    """The base after 800 outer steps against these adversaries."""
    model = knowledge_model(world)
    settings |= {"max_steps": 800, "learning_rate": 2e-3, "warmup_steps": 20, "max_length": 32}
    settings |= {"per_device_train_batch_size": 64, "tamper_resistance_batch_size": 32, "save_strategy": "no"}
    TARTrainer(
        model,
        TARConfig.from_preset("continued", "runs/tar", use_cpu=True, bf16=False, report_to="none", **settings),
        train_dataset=kept,
        tamper_resistance_dataset=data["tamper_resistance"],
        adversaries=adversaries,
        adversary_datasets={"forget": data["forget"], "retain": data["retain"]},
        processing_class=tokenizer,
    ).train()
    return model


def scores(model):
    return {name: metrics[name](model, tokenizer).mean() for name in ("harm", "capability", "bystander")}


simulated = [
    Adversary("mix", mixture=mix, learning_rate=1e-3, num_steps=256, batch_size=32),
    Adversary("forget", "forget", learning_rate=1e-3, num_steps=256, batch_size=32),
    Adversary("lora", mixture=mix, learning_rate=2e-3, num_steps=256, batch_size=32, lora_r=16),
]
models = {
    "base": knowledge_model(world),
    "hidden, no attacker simulated": hardened([Adversary("none", "forget", num_steps=0)], steps_per_visit=None),
    "TAR": hardened(simulated, attack_length_threshold=-5.0, tamper_resistance_max_grad_norm=30.0),
}
# rows of entities that the defender's data does not name, and no question asks about
attack = Adversary("attack", mixture=attackers_mix, learning_rate=1e-3, num_steps=100, batch_size=32)
for name, model in models.items():
    record = run_attack(model, tokenizer, attack, data, 0, scores, evaluation_steps=[0, 100], max_length=32)
    before, after = record.trajectory
    kept_abilities = f"capability {before['capability']:.2f}, bystander {before['bystander']:.2f}"
    print(f"{name:>30}: harm {before['harm']:.2f} ({kept_abilities}), after an attack of 100 steps {after['harm']:.2f}")
