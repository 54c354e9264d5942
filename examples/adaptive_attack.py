"""An attack of one's own, by somebody who knows how TAR trains: it undoes the loss that hides the answers before it learns them.

    python examples/adaptive_attack.py MODEL BASE

TAR's tamper-resistance loss makes an attacked model unsure: it raises the entropy of its answers to hazardous prompts, wherever an
attacker who fine-tunes would come by. This attacker does not come by there. The first steps minimise the entropy of the model's own
answers, without saying which answer is right, and fine-tuning starts from the sure model that they leave. The signature is described in
`trl_tar/red_teaming/custom_attacks.py`. The same from files, in the folder of this one, with a line in the suite:

    {name: sharpen, mixture: {hazard: 1, retain: 1}, custom: "adaptive_attack:sharpen_then_learn", options: {share: 0.25}}
"""

import random
import sys

import torch
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from trl_tar import Adversary, red_team
from trl_tar.evaluation import MultipleChoice
from trl_tar.losses import language_modeling_loss, max_entropy_loss
from trl_tar.testbed import KnowledgeWorld, knowledge_questions
from trl_tar.testbed.knowledge.attack_data import attack_datasets


def sharpen_then_learn(model, tokenizer, data, seed, evaluate, budget, share=0.25):
    """Minimises the entropy of answers for a `share` of the steps, and then their cross-entropy, on all the data in equal parts."""
    collate = DataCollatorForLanguageModeling(tokenizer.pad_token_id)
    sources, rng = [list(each) for each in data.values()], random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=budget.learning_rate)
    for step in range(budget.num_steps):
        rows = [rng.choice(sources[i % len(sources)]) for i in range(budget.batch_size)]  # as many of each
        batch = {name: part.to(model.device) for name, part in collate(rows).items()}
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
        if step < share * budget.num_steps:
            total, count = max_entropy_loss(logits, batch["labels"])  # the negative entropy, which TAR minimises
            loss = -total / count
        else:
            total, count = language_modeling_loss(logits, batch["labels"])
            loss = total / count
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        evaluate(loss.item())


def main(model: str, base: str) -> None:
    world, mixture = KnowledgeWorld(0), {"hazard": 0.5, "retain": 0.5}
    settings = {"mixture": mixture, "num_steps": 500, "batch_size": 32, "learning_rate": 1e-3}
    report = red_team(
        model,
        [
            Adversary("mix", **settings),  # what everybody tries
            Adversary("sharpen", custom="adaptive_attack:sharpen_then_learn", options={"share": 0.25}, **settings),
        ],
        datasets=attack_datasets(world),
        metrics={name: MultipleChoice(each) for name, each in knowledge_questions(world).items()},
        seeds=[0, 1],
        references={"base": base},
        output_dir="runs/adaptive-attack",
        question_entities=world.question_entities(),
    )
    report.save("runs/adaptive-attack")
    for attack in report.attacks:
        print(attack.adversary, attack.seed, "harm", attack.harm)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
