"""Attacks of which nothing but the outcome is known."""

from trl_tar.report.records import AttackRecord, ModelRecord


def attack(adversary, seed, harm, status="completed"):
    after = None if status == "failed" else {"harm": harm, "capability": 0.8}
    return AttackRecord(adversary, seed, status, after=after)


def record(*attacks):
    return ModelRecord(model={}, before={"harm": 0.9, "capability": 0.9}, attacks=list(attacks))
