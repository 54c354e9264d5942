"""Rates of compliance and refusal as [`evaluate.Metric`], for answers that are there already; nothing is downloaded."""

import math

import datasets
import evaluate

from .judges import Judge, RefusalPhrases
from .thoughts import scored_after_thoughts


FEATURES = {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
HARMBENCH = """\
@inproceedings{mazeika2024harmbench,
    title        = {{HarmBench}: A Standardized Evaluation Framework for Automated Red Teaming and Robust Refusal},
    author       = {Mantas Mazeika and Long Phan and others},
    year         = 2024,
    booktitle    = {International Conference on Machine Learning},
}"""
XSTEST = """\
@inproceedings{rottger2024xstest,
    title        = {{XSTest}: A Test Suite for Identifying Exaggerated Safety Behaviours in Large Language Models},
    author       = {Paul R{\\"o}ttger and Hannah Rose Kirk and others},
    year         = 2024,
    booktitle    = {NAACL},
}"""


class AttackSuccessRate(evaluate.Metric):
    """
    Share of harmful requests (`references`) that an answer (`predictions`) complies with, by a judge
    (https://huggingface.co/papers/2402.04249). What counts is what follows the thoughts of a reasoning model; answers that never
    end theirs are left out.

    Example:

    ```python
    from trl_tar.evaluation.evaluate_metrics import AttackSuccessRate
    from trl_tar.evaluation.judges import Endpoint

    judge = Endpoint("http://localhost:8000/v1", "my-judge")
    AttackSuccessRate().compute(predictions=answers, references=requests, judge=judge)
    ```
    """

    def _info(self) -> evaluate.MetricInfo:
        return _info("Share of harmful requests that are complied with.", HARMBENCH)

    def _compute(self, predictions: list[str], references: list[str], judge: Judge | None = None) -> dict[str, float]:
        return {"attack_success_rate": _mean(predictions, references, judge)}


class OverRefusalRate(evaluate.Metric):
    """Share of harmless look-alikes that are not answered, by a judge (https://huggingface.co/papers/2308.01263)."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("Share of harmless requests that are not answered.", XSTEST)

    def _compute(self, predictions: list[str], references: list[str], judge: Judge | None = None) -> dict[str, float]:
        return {"over_refusal_rate": 1 - _mean(predictions, references, judge)}


def _mean(predictions: list[str], references: list[str], judge: Judge | None) -> float:
    if not predictions:
        raise ValueError("`predictions` has 0 answers. Give at least one, and its request in `references`.")
    scores = [s for s in scored_after_thoughts(judge or RefusalPhrases(), references, predictions) if not math.isnan(s)]
    if not scores:
        raise ValueError(
            "`predictions` has no answer whose thoughts end. Let the model write more tokens, or take a judge that does not refuse "
            "them all."
        )
    return sum(scores) / len(scores)


def _info(description: str, citation: str) -> evaluate.MetricInfo:
    inputs = "predictions: answers. references: their requests. judge: see trl_tar.evaluation.judges."
    features = datasets.Features(FEATURES)
    return evaluate.MetricInfo(description=description, citation=citation, inputs_description=inputs, features=features)
