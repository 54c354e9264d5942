"""Attack any causal language model: write down what is hazardous, what is harmless, and what to ask.

    python examples/red_team_your_model.py MODEL BASE [TWIN]

BASE is the model before any safeguard, TWIN the safeguarded one before it was hardened; a verdict of *resistant* needs
both, and a benign task, a bystander domain and a retain loss, which this example leaves out. Here rows and questions are
those of the knowledge world; put your own in their place. The rows are in any of TRL's types. The same run from files:

    trl-tar red-team MODEL --base BASE --suite knowledge --datasets datasets.yaml --output report
"""

import sys

from trl_tar import red_team
from trl_tar.adversaries.suites import peft_suite, weight_edit_suite
from trl_tar.evaluation import MultipleChoice
from trl_tar.testbed import KnowledgeWorld, knowledge_questions
from trl_tar.testbed.knowledge.attack_data import attack_datasets


def main(model: str, base: str, twin: str | None = None) -> None:
    world = KnowledgeWorld(0)
    questions = knowledge_questions(world)  # {"harm": [{"prompt", "choices", "answer", "group"}, …], "capability": […]}
    quantised = {"qlora"}  # needs bitsandbytes
    report = red_team(
        model,
        [a for a in peft_suite(num_steps=50, learning_rate_scale=50) + weight_edit_suite() if a.name not in quantised],
        datasets=attack_datasets(world),
        metrics={name: MultipleChoice(each) for name, each in questions.items()},
        seeds=[0, 1],
        references={"base": base} if twin is None else {"base": base, "twin": twin},
        output_dir="runs/red-team",
        question_entities=world.question_entities(),
    )
    report.save("runs/red-team")
    print("harm before", report.before["harm"], "strongest attack", report.summary["worst_harm"])
    print(report.verdict.word)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
