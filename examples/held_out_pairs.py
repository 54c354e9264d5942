"""Does what TAR learned on D_TR hold for requests that are not in it? Nats per token of answers, before and after an attack.

    python examples/held_out_pairs.py animal-poems smollm2-animal-poems [STEPS]

for the output folder of `recipes/refusal.py`, here that of `recipes/configs/smollm2_refusal.yaml`, or of the refusal world 0
(`0 refusal-world`). The attacker is TRL's own trainer on the adversaries' data: no phase of the defence is asked anything new.
"""

import sys
from pathlib import Path

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from trl_tar.evaluation import CompletionLoss
from trl_tar.tasks.built_in import refusal_task


ROWS = 32  # of each kind


def answered(rows: Dataset, answer: str) -> CompletionLoss:
    """The loss of one of the answers to each prompt, as the chat template writes them."""
    return CompletionLoss(
        [{"prompt": row["prompt"], "completion": row[answer]} for row in rows.select(range(min(ROWS, len(rows))))]
    )


def main(world: str, run: str, steps: int) -> None:
    task = refusal_task(world)
    data = task.datasets
    columns = {
        "refusals of D_TR": (data["tamper_resistance"], "chosen"),
        "compliance, D_TR": (data["tamper_resistance"], "rejected"),
        "compliance, held out": (data["harmful"], "completion"),
    }
    losses = {name: answered(*column) for name, column in columns.items()}
    print("model", "steps", *columns, sep=" | ")
    for name, folder in {"base": task.model, **{n: Path(run, n) for n in ("dpo", "tar", "repair")}}.items():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        for done in (0, steps):
            if done:
                args = SFTConfig(
                    f"{run}/held-out-pairs",
                    max_steps=steps,
                    learning_rate=1e-4,
                    lr_scheduler_type="constant",
                    save_strategy="no",
                    disable_tqdm=True,
                    use_cpu=True,
                    bf16=False,
                )
                SFTTrainer(model, args, train_dataset=data["forget"], processing_class=tokenizer).train()
                model.eval()
            print(
                name, done, *(f"{loss(model, tokenizer).mean():.2f}" for loss in losses.values()), sep=" | ", flush=True
            )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 16)
