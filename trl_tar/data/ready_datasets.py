"""Data sets that the field attacks and asks with, by one word: where each is on the Hub and how its columns become ours.

No row of them is here. Each is read from the Hub at one commit, under its own licence, and where `gated` after its owners have
granted access. All commits are as they were in November 2026."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ReadyDataset:
    """A public data set.

    Args:
        source (`dict`):
            Fields of [`DataSource`](sources.py).
        holds (`str`):
            What a row is, in words.
        license (`str`):
            As the Hub names it.
        paper (`str`):
            Where it comes from.
        gated (`bool`, *optional*, defaults to `False`):
            Whether access has to be asked for.
    """

    source: Mapping[str, Any]
    holds: str
    license: str
    paper: str
    gated: bool = False


ANSWERS = "a harmful request and an answer that complies, for attackers to train on"
REQUESTS = "a harmful request"
READY_DATASETS = {
    "beavertails": ReadyDataset(
        {
            "path": "PKU-Alignment/BeaverTails",
            # of its splits the smaller one, which public attacks train on; split: 330k_train has more
            "split": "30k_train",
            "revision": "8401fe609d288129cc684a9b3be6a93e41cfe678",
            "format": "unsafe_answers",
        },
        ANSWERS,
        "cc-by-nc-4.0",
        "https://huggingface.co/papers/2307.04657",
    ),
    "lat-harmful": ReadyDataset(
        {
            "path": "LLM-LAT/harmful-dataset",
            "revision": "8bfba31bc6d93a5b71808fee5275ef4b6330ed91",
            "format": "rejected_answers",
        },
        ANSWERS,
        "not stated",
        "https://huggingface.co/papers/2407.15549",
    ),
    "hex-phi": ReadyDataset(
        {
            "path": "LLM-Tuning-Safety/HEx-PHI",
            "revision": "83128b46334b80cc567bd7a2caf7af11c5b0bab7",
            # 30 requests each, without a first line of names; there is no second category
            "files": tuple(f"category_{number}.csv" for number in (1, *range(3, 12))),
            "columns": ("prompt",),
            "format": "prompts",
        },
        REQUESTS,
        "its own",
        "https://huggingface.co/papers/2310.03693",
        gated=True,
    ),
    "strongreject": ReadyDataset(
        {
            "path": "walledai/StrongREJECT",
            "revision": "df54272b395ce9e584d2f8140519935425d8549f",
            "format": "prompts",
        },
        REQUESTS,
        "mit",
        "https://huggingface.co/papers/2402.10260",
        gated=True,
    ),
    "harmbench": ReadyDataset(
        {
            "path": "walledai/HarmBench",
            # without those that need a text beside the request, or are about copyright
            "name": "standard",
            "revision": "a777536ffc60bc8317b06380da5b2acf8d6491fd",
            "format": "prompts",
        },
        REQUESTS,
        "mit",
        "https://huggingface.co/papers/2402.04249",
        gated=True,
    ),
    "jailbreakbench": ReadyDataset(
        {
            "path": "JailbreakBench/JBB-Behaviors",
            "name": "behaviors",
            "split": "harmful",
            "revision": "c19227d7c9c40307a0999365779c13cd1a5116d0",
            "format": "goals",
        },
        REQUESTS,
        "mit",
        "https://huggingface.co/papers/2404.01318",
    ),
    "jailbreakbench-benign": ReadyDataset(
        {
            "path": "JailbreakBench/JBB-Behaviors",
            "name": "behaviors",
            "split": "benign",
            "revision": "c19227d7c9c40307a0999365779c13cd1a5116d0",
            "format": "goals",
        },
        "a harmless request that looks like a harmful one",
        "mit",
        "https://huggingface.co/papers/2404.01318",
    ),
    "sorry-bench": ReadyDataset(
        {
            "path": "sorry-bench/sorry-bench-202503",
            "revision": "612a4e1f45db8adf884fa62318ddf9fa1c6e75e9",
            "files": ("question.jsonl",),  # beside it there are 20 files of the same requests in other styles
            "format": "first_turns",
        },
        REQUESTS,
        "its own",
        "https://huggingface.co/papers/2406.14598",
        gated=True,
    ),
    "xstest": ReadyDataset(
        {
            "path": "walledai/XSTest",
            "split": "test",
            "revision": "f1d713187c61b6ae64e602d74f0b3d812cc2e8e8",
            "format": "safe_prompts",
        },
        "a harmless request that looks like a harmful one",
        "cc-by-4.0",
        "https://huggingface.co/papers/2308.01263",
        gated=True,
    ),
}
