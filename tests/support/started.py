"""The recipes as programs, in this process, and the description of a short run on files."""

import importlib.util
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from trl_tar import TARConfig
from trl_tar.pipeline.steps import run
from trl_tar.testbed import KnowledgeWorld, knowledge_model_path, knowledge_questions


RECIPES = Path(__file__).parents[2] / "recipes"
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
    "repair_steps": 0,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
}


def recipe(name: str):
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    arguments = {"refusal": "RefusalArguments", "knowledge": "KnowledgeArguments"}[name]
    return module.main, getattr(module, arguments)


def start(name: str, monkeypatch, *arguments) -> None:
    main, types = recipe(name)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    run(main, types, TARConfig)


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
            for name in ROLES
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
