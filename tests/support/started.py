"""The recipes as programs, in this process, and the description of a short run on files."""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from support.repository import ROOT

from trl_tar.pipeline.recipes import run_recipe
from trl_tar.testbed import KnowledgeWorld, knowledge_model_path, knowledge_questions
from trl_tar.testbed.refusal.models import refusal_model_path
from trl_tar.testbed.refusal.world import HARMFUL, RETAIN, RefusalWorld


RECIPES = ROOT / "recipes"
CONFIGS = RECIPES / "configs"
# data set of a recipe → of the knowledge world
ROLES = {
    "safeguard": "safeguard",
    "forget": "forget",
    "tamper_resistance": "tamper_resistance",
    "retain": "retain",
    "general": "retain",
    "hazard": "attacker",
    "benign": "benign",
}
SHORT = {
    "max_steps": 1,
    "tamper_resistance_batch_size": 2,
    "per_device_train_batch_size": 2,
    "max_length": 32,
    "attack_seeds": 1,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
}


def start(name: str, monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    run_recipe(name)


def write_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


def world_rows(name: str) -> list[dict[str, Any]]:
    """Four rows of each of the recipe's data sets."""
    return KnowledgeWorld(0).datasets()[ROLES[name]].select(range(4)).to_list()


def described(folder: Path, rows: Mapping[str, list] = {}, **fields) -> Path:
    """YAML of a run on files of the knowledge world, with other rows and fields where they are given; `None` leaves out."""
    world = KnowledgeWorld(0)
    asked = {"harm": "harm", "capability": "capability"}
    attack = {"name": "sft", "dataset": "hazard", "num_steps": 1, "batch_size": 2}
    config = {
        **SHORT,
        "model_name_or_path": str(knowledge_model_path(world)),
        "output_dir": str(folder / "run"),
        "data": {
            name: write_rows(folder / f"{name}.jsonl", rows[name] if name in rows else world_rows(name))
            for name in {**ROLES, **rows}
        },
        "metrics": {
            name: write_rows(folder / f"{name}_questions.jsonl", knowledge_questions(world)[each][:8])
            for name, each in asked.items()
        },
        "adversaries": [{"name": "sft", "dataset": "forget", "num_steps": 4, "batch_size": 2}],
        "attacks": write_rows(folder / "attacks.yaml", [[attack]]),
        **fields,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump({k: v for k, v in config.items() if v is not None}))
    return folder / "config.yaml"


def files_of_ones_own(folder: Path) -> dict:
    """Configuration of the refusal recipe on a model and data of one's own, in the Hub's columns; with the weak judge, and
    no phase 1."""
    world = RefusalWorld(0)

    def write(name: str, rows: list[dict]) -> str:
        (folder / name).write_text("\n".join(map(json.dumps, rows)))
        return str(folder / name)

    def dialogue(row: dict, column: str) -> str:
        return f"\n\nHuman: {row['prompt'][0]['content']}\n\nAssistant: {row[column][0]['content']}"

    pairs = [
        {"chosen": dialogue(row, "chosen"), "rejected": dialogue(row, "rejected")}
        for row in world.pairs(world.select(HARMFUL, ["adversary", "tamper_resistance"]))
    ]
    retain = [
        {
            "conversations": [
                {"from": "human", "value": r["prompt"][0]["content"]},
                {"from": "gpt", "value": r["completion"][0]["content"]},
            ]
        }
        for r in world.answered(world.select(RETAIN, "rehearsed")[:8])
    ]
    harmful = [
        {"prompt": r["prompt"][0]["content"], "chosen": r["completion"][0]["content"], "rejected": "sorry"}
        for r in world.answered(world.select(HARMFUL, "attacker"))
    ]
    pair_file = write("pairs.jsonl", pairs)
    requests = [{"prompt": world.requests(item)[0]} for item in world.select(HARMFUL, "questions")[:4]]
    asked = {"requests": write("requests.jsonl", requests), "judge": "phrases", "max_new_tokens": 16}
    return {
        "model_name_or_path": str(refusal_model_path(world)),
        "output_dir": str(folder / "run"),
        "data": {
            "tamper_resistance": {"path": pair_file, "format": "dialogues", "rows": [0.8, 1]},
            "forget": {"path": pair_file, "format": "harmful_dialogues", "rows": [0, 0.8]},
            "retain": {"path": write("retain.jsonl", retain), "format": "conversations"},
            "harmful": {"path": write("harmful.jsonl", harmful), "format": "harmful_answers"},
        },
        "metrics": {"harm": asked, "capability": {**asked, "inverted": True}},
        "adversaries": [{"name": "sft", "dataset": "forget", "learning_rate": "1e-4", "num_steps": 4}],
        "attacks": write("attacks.yaml", [[{"name": "sft", "dataset": "harmful", "num_steps": 1}]]),
        "attack_seeds": 1,
        "phases": ["tar"],
        "chance": 0.0,
        "tamper_resistance_loss": "dpo",
        "max_steps": 1,
        "max_length": 40,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
    }
