"""Figures: what is drawn is what the report says."""

import json
import math
import random
import warnings
from dataclasses import replace

import pytest

from trl_tar.red_teaming.search_figure import plot_search
from trl_tar.red_teaming.trials import SearchResult, Trial
from trl_tar.report.records import AttackRecord, ModelRecord, attack_record
from trl_tar.views.figures import plot_adversary_loss, plot_ages, plot_attacks, plot_tradeoff, plot_training


STEPS = [0, 1, 2, 5, 10, 20, 50, 100, 150, 200]
# label → harm before, harm at the end, capability before, at the end, steps that the attack needs
MODELS = {
    "random mapping (twin)": (0.32, 0.93, 0.94, 0.97, 20),
    "K = 0 control": (0.40, 0.90, 0.91, 0.95, 25),
    "TAR": (0.36, 0.62, 0.88, 0.93, 90),
    "floor": (0.24, 0.25, 0.95, 0.96, 20),
}


def fake_record(harm: float, harm_end: float, capability: float, capability_end: float, slow: float) -> ModelRecord:
    def attack(name: str, seed: int) -> AttackRecord:
        rng = random.Random(f"{harm} {name} {seed}")
        points = []
        for step in STEPS:
            part = 1 - math.exp(-step / slow)
            points.append(
                {
                    "step": step,
                    "flops": 10**9 * step,
                    "loss": None if step == 0 else 0.6 + 5 * (1 - part) + rng.gauss(0, 0.1),
                    "harm": harm + part * (harm_end - harm) + part * rng.gauss(0, 0.03),
                    "capability": capability + part * (capability_end - capability) - 0.2 * part * (1 - part),
                }
            )
        return attack_record(name, seed, points)

    attacks = [attack(name, seed) for name in ("mix", "lora") for seed in (0, 1, 2)]
    return ModelRecord({"id": "m"}, {"harm": harm, "capability": capability}, attacks)


@pytest.fixture(scope="module")
def records():
    return {label: fake_record(*numbers) for label, numbers in MODELS.items()}


def training_log() -> list[dict]:
    rng = random.Random(0)
    log = []
    for step in range(10, 301, 10):
        done = step / 300
        log.append(
            {
                "step": step,
                "loss": 0.9 - 0.3 * done,
                "adversary_loss/first": 5.5 + rng.gauss(0, 0.2),
                "adversary_loss/last": 1.2 + 2.5 * done + rng.gauss(0, 0.2),
                "tamper_resistance_loss/first": -6.2 + rng.gauss(0, 0.05),
                "tamper_resistance_loss/last": -2.5 - 3 * done + rng.gauss(0, 0.2),
                "retain_loss/lm": 0.4 - 0.2 * done,
                "retain_loss/representation": 2.0 * done**0.5,
                "grad_norm/retain": 0.8 + rng.random() * 0.2,
                "grad_norm/tamper_resistance": 2 - done + rng.random() * 0.3,
            }
        )
    return [*log, {"step": 300, "train_runtime": 3.0}]


def test_lines_are_the_means_over_seeds_of_means_over_attacks(records):
    left, right = plot_attacks(records).axes
    for label, line in zip(records, left.get_lines(), strict=False):
        attacks = records[label].attacks
        assert list(line.get_xdata()) == STEPS
        assert line.get_label() == label
        assert line.get_ydata()[-1] == pytest.approx(sum(a.after["harm"] for a in attacks) / 6)
    # a share: harm of a refusal is no accuracy
    assert (left.get_ylabel(), right.get_ylabel()) == ("harm (0 to 1)", "held-out capability (0 to 1)")


def test_lines_begin_before_the_attack_also_where_it_was_evaluated_later(records):
    record = records["TAR"]
    late = [replace(a, trajectory=[p for p in a.trajectory if p["step"] >= 50]) for a in record.attacks]
    left, right = plot_attacks({"late": replace(record, attacks=late)}).axes
    assert list(left.get_lines()[0].get_xdata()) == [0, 50, 100, 150, 200]
    assert [axes.get_lines()[0].get_ydata()[0] for axes in (left, right)] == [0.36, 0.88]
    assert len(plot_adversary_loss({"late": record}).axes[0].get_lines()[0].get_xdata()) == len(STEPS) - 1


def test_bands_are_intervals_over_seeds():
    def ends_at(seed: int, *harms: float) -> AttackRecord:
        points = [{"step": s, "flops": s, "loss": 0.1, "harm": h, "capability": 0.9} for s, h in enumerate(harms)]
        return attack_record("mix", seed, points)

    attacks = [ends_at(0, 0.2, 0.5), ends_at(1, 0.2, 0.6), ends_at(2, 0.2, 0.7)]
    left, _ = plot_attacks({"m": ModelRecord({"id": "m"}, {"harm": 0.2, "capability": 0.9}, attacks)}).axes
    heights = [y for x, y in left.collections[0].get_paths()[0].vertices if x == 1]
    # mean 0.6, standard deviation 0.1, t(2, 97.5 %) = 4.303: 4.303 · 0.1 / √3 = 0.2484
    assert min(heights) == pytest.approx(0.3516, abs=1e-4) and max(heights) == pytest.approx(0.8484, abs=1e-4)


def test_one_seed_has_a_line_and_no_band(records):
    record = records["TAR"]
    single = ModelRecord(record.model, record.before, [a for a in record.attacks if a.seed == 0])
    left, _ = plot_attacks({"one": single}).axes
    assert not left.collections and len(left.get_lines()) == 2  # the curve, and chance


def test_lines_differ_without_colour(records):
    left, _ = plot_attacks(records).axes
    styles = {(str(line._dash_pattern), line.get_marker()) for line in left.get_lines()[: len(records)]}
    assert len(styles) == len(records)


def test_loss_begins_after_the_first_step(records):
    (axes,) = plot_adversary_loss(records).axes
    assert list(axes.get_lines()[0].get_xdata()) == STEPS[1:]


def test_a_negative_loss_is_on_the_figure(records):
    record = records["TAR"]
    low = [{**point, "loss": -0.5} for point in record.attacks[0].trajectory]
    (axes,) = plot_adversary_loss({"grpo": replace(record, attacks=[attack_record("grpo", 0, low)])}).axes
    assert axes.get_ylim()[0] <= -0.5
    assert plot_adversary_loss(records).axes[0].get_ylim()[0] == 0


def test_markers_at_the_edge_are_whole(records):
    record = records["TAR"]
    safe = [{**point, "harm": 0.0} for point in record.attacks[0].trajectory]
    edge = replace(
        record, before={"harm": 0.0, "capability": 1.0}, attacks=[attack_record("mix", seed, safe) for seed in (0, 1)]
    )
    for plot in (plot_attacks, plot_tradeoff):
        marked = [line for line in plot({"m": edge}).axes[0].get_lines() if line.get_marker() not in ("None", "")]
        assert marked and not any(line.get_clip_on() for line in marked)


def test_arrow_goes_from_before_to_the_mean_after(records):
    (axes,) = plot_tradeoff(records).axes
    arrows = [text for text in axes.texts if text.arrow_patch is not None]
    assert len(arrows) == len(records)
    assert tuple(arrows[2].xyann) == (0.88, 0.36)
    attacks = records["TAR"].attacks
    assert arrows[2].xy[1] == pytest.approx(sum(a.after["harm"] for a in attacks) / 6)


def test_failed_attack_is_left_out(records):
    record = records["TAR"]
    failed = ModelRecord(record.model, record.before, [*record.attacks, AttackRecord("mix", 3, "failed", "OSError: x")])
    before, after = (plot_attacks({"m": r}).axes[0].get_lines()[0].get_ydata() for r in (record, failed))
    assert list(before) == list(after)
    plot_tradeoff({"m": failed})


NOTHING = {
    "no attacks": [],
    "all failed": [AttackRecord("mix", seed, "failed", "OSError: x") for seed in (0, 1)],
    "all diverged": [
        AttackRecord("mix", seed, "diverged", "loss nan", [{"step": 0, "loss": None, "harm": 0.2, "capability": 0.9}])
        for seed in (0, 1)
    ],
    "no values": [
        attack_record(
            "mix", seed, [{"step": s, "flops": 0, "loss": None, "harm": None, "capability": None} for s in (0, 1)]
        )
        for seed in (0, 1)
    ],
}


@pytest.mark.parametrize("before", [0.3, None])
@pytest.mark.parametrize("name", NOTHING)
def test_model_that_nothing_is_known_of_has_no_line(records, name, before, tmp_path):
    nothing = ModelRecord({"id": "m"}, {"harm": before, "capability": before}, NOTHING[name])
    for plot in (plot_attacks, plot_adversary_loss, plot_tradeoff):
        for reports in ({"m": nothing}, {**records, "m": nothing}):
            figure = plot(reports)
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # an empty line may leave the layout no room
                figure.savefig(tmp_path / "figure.png")
            handles, labels = figure.axes[0].get_legend_handles_labels()
            assert labels[-1].startswith("m (no") and list(handles[-1].get_xdata()) == []


def test_diverged_attack_is_left_out(records):
    record = records["TAR"]
    first = record.attacks[0]
    low = [{**point, "harm": 0.0} for point in first.trajectory]
    diverged = replace(attack_record("mix", 3, low), status="diverged")
    more = ModelRecord(record.model, record.before, [*record.attacks, diverged])
    for plot in (plot_attacks, plot_tradeoff):
        lines = [plot({"m": r}).axes[0].get_lines() for r in (record, more)]
        assert [list(line.get_ydata()) for line in lines[0]] == [list(line.get_ydata()) for line in lines[1]]


def test_unknown_attack_is_one_sentence(records):
    with pytest.raises(ValueError, match=r"no attack named 'nothing'. Choose from \['lora', 'mix'\]"):
        plot_attacks(records, adversary="nothing")


def test_training_curves_are_those_of_the_log(tmp_path):
    log = training_log()
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    for source in (log, tmp_path / "trainer_state.json"):
        figure = plot_training(source)
        assert len(figure.axes) == 4
        assert list(figure.axes[0].get_lines()[1].get_ydata()) == [row["adversary_loss/last"] for row in log[:-1]]


def test_log_without_curves_is_one_sentence():
    with pytest.raises(ValueError, match="no curve of TARTrainer"):
        plot_training([{"step": 1, "loss": 0.2}])


def test_the_defence_is_drawn_by_the_age_of_attacks():
    log = [{"step": step, "tamper_resistance_loss/age_8": -step / 40} for step in range(1, 81)]
    log += [{"step": 80, "tamper_resistance_loss/age_64": -1.0, "tamper_resistance_loss/last": -9.0}]
    (axes,) = plot_ages(log).axes
    young, old = axes.get_lines()
    assert [young.get_label(), old.get_label()] == ["8–15", "64–127"]
    assert list(old.get_ydata()) == [1.0]
    assert young.get_ydata()[1] == pytest.approx(2.5 / 40)  # the mean of steps 2 and 3
    assert plot_ages(training_log()) is None


def test_figures_are_written(records, tmp_path):
    figures = [
        plot_attacks(records),
        plot_adversary_loss(records),
        plot_tradeoff(records),
        plot_training(training_log()),
    ]
    for i, figure in enumerate(figures):
        figure.savefig(tmp_path / f"{i}.png", dpi=100)
        assert (tmp_path / f"{i}.png").stat().st_size > 10_000


def test_the_search_figure_draws_both_curves_and_the_trials_that_failed():
    def trial(number, harm, usable=True):
        return Trial(number, {"name": str(number)}, "completed", None, harm, harm, usable)

    failed = Trial(1, {"name": "1"}, "failed", "RuntimeError: no memory", None, None, None)
    trials = {"model": [trial(0, 0.3), failed, trial(2, 0.5, usable=False)], "twin": [trial(0, 0.8), trial(1, 0.7)]}
    result = SearchResult(trials)
    axes = plot_search(result).axes[0]
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert drawn["model"] == result.curve("model") == [0.3, 0.3, 0.5]
    assert drawn["model, usable attacks"] == [0.3, 0.3, 0.3]
    assert drawn["twin"] == [0.8, 0.8]
    crosses = [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "x" and len(line.get_xdata())]
    assert crosses == [[2]]
    assert math.isnan(plot_search(SearchResult({"model": [failed]})).axes[0].lines[0].get_ydata()[0])
