"""A model, batches and a loss for simulated attacks."""

from support import tiny
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from trl_tar.losses import language_modeling_loss
from trl_tar.models.forward_passes import next_token_logits


ATTACK = {"learning_rate": 0.02, "num_steps": 6, "batch_size": 4}
ROWS = tiny.tokenised()["forget"]
COLLATE = DataCollatorForLanguageModeling(0)


def loss_function(model, batch):
    return language_modeling_loss(next_token_logits(model, batch), batch["labels"])


def batches(steps: int):
    return ([COLLATE(ROWS[i % 3 : i % 3 + 4])] for i in range(steps))


def plain(seed=0):
    return tiny.gpt2(seed)
