"""The cost of an outer step: its passes are counted exactly, its time and memory compared with the bare loop's.

trl-tar bench smollm2 --steps 8 --output tests/benchmarks/results/smollm2.json
trl-tar bench world --output tests/benchmarks/results/world.json
trl-tar bench --growth --steps 4 --output tests/benchmarks/results/growth.json
"""

import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from scipy.stats import binom
from support.repository import PROSE, TEXT
from transformers import T5Config

from trl_tar.cli.main import main
from trl_tar.costs import bench as bench_record
from trl_tar.costs import timing as bench
from trl_tar.costs.bare_loop import BareLoop
from trl_tar.costs.bench import measure
from trl_tar.costs.cost import Cost
from trl_tar.costs.growth import AXES
from trl_tar.costs.memory_ledger import Ledger
from trl_tar.costs.mode import Mode
from trl_tar.costs.plan import plan
from trl_tar.costs.timing import is_configuration, load_model, median_interval, trainer_for
from trl_tar.costs.trace_figure import PHASES, plot_trace


RESULTS = Path(__file__).parent / "results"
MAX_RATIO = {"world": 1.25, "smollm2": 1.05}
MAX_PEAK = {"smollm2": 1.75}


class Passes:
    """Counts forward passes, those of them with a gradient, and backward passes of a model."""

    def __init__(self, model):
        self.forward = self.with_gradient = self.backward = 0
        model.get_input_embeddings().register_forward_hook(self._count)
        model.get_output_embeddings().register_full_backward_hook(self._count_backward)

    def _count(self, *_):
        self.forward += 1
        self.with_gradient += torch.is_grad_enabled()

    def _count_backward(self, *_):
        self.backward += 1


@pytest.mark.parametrize(
    "cost",
    [
        Cost(2, 8),
        Cost(2, 8, num_steps=6, interval=4),
        Cost(2, 8, num_steps=3, interval=1, adversaries=2),
        Cost(2, 8, lora_r=2),
    ],
    ids=lambda cost: f"K={cost.num_steps}-S={cost.adversaries}-r={cost.lora_r}",
)
def test_an_outer_step_makes_the_passes_of_its_arithmetic_and_no_other(tmp_path, cost):
    model, tokenizer = load_model("world")
    trainer = trainer_for(model, tokenizer, cost, 2, tmp_path)  # makes a small pass, to see what the model returns
    passes = Passes(model)
    trainer.train()
    assert passes.with_gradient == passes.backward == 2 * cost.passes
    assert passes.forward == 2 * (cost.passes + 1)  # the reference of the anchor has no backward pass
    assert Cost(num_steps=64, interval=4).passes == 64 + 16 + 1


def test_the_interval_of_a_median_is_that_of_order_statistics():
    values = [3.0, 1.0, 2.0, 5.0, 4.0, 8.0, 7.0, 6.0, 9.0]
    found = median_interval(values)
    # of nine values the 2nd and the 8th enclose the median with 1 − 2 · P(B ≤ 1) = 96 %
    assert 1 - 2 * binom.cdf(1, 9, 0.5) > 0.95 > 1 - 2 * binom.cdf(2, 9, 0.5)
    assert found == {"median": 5.0, "low": 2.0, "high": 8.0, "n": 9}
    assert median_interval([1.0, 2.0])["low"] is None


def ledger_of(bare):
    """The peak of an outer step of the bare loop whose optimizers have their state, in bytes per parameter."""
    bare.step()
    state = [value for state in bare.outer.state.values() for value in state.values() if torch.is_tensor(value)]
    with Ledger([*bare.model.parameters(), *bare.model.buffers(), *state]) as ledger:
        bare.step()
    return ledger.peak / sum(p.numel() for p in bare.whole)


def test_the_bare_loop_holds_no_more_than_its_arithmetic():
    model, _ = load_model("world")
    small = {"batch_size": 1, "length": 4, "num_steps": 2, "interval": 1}
    # weights 4, outer optimizer 8, outer gradient 4, attack's optimizer 8, one gradient (not the attack's and L_TR's), activations
    assert 28 <= ledger_of(BareLoop(model, Cost(**small))) < 31
    assert 20 <= ledger_of(BareLoop(load_model("world")[0], Cost(**small, lora_r=1))) < 23


def test_a_lora_attack_of_the_bare_loop_moves_its_adapter_alone():
    model, _ = load_model("world")
    bare = BareLoop(model, Cost(2, 8, num_steps=2, interval=2, lora_r=2))
    outer, before = bare._retain(), [p.detach().clone() for p in bare.whole]
    adapter = [p.detach().clone() for p in bare.attacked]
    retain = [gradient.clone() for gradient in outer.values()]
    bare._attack(outer)
    assert all(torch.equal(p, value) for p, value in zip(bare.whole, before, strict=True))
    assert not all(torch.equal(p, value) for p, value in zip(bare.attacked, adapter, strict=True))
    assert not any(torch.equal(now, then) for now, then in zip(outer.values(), retain, strict=True))
    assert list(outer) == bare.whole and {id(p) for p in bare.attacked}.isdisjoint(map(id, bare.whole))


def save_configuration(folder):
    config = load_model("world")[0].config
    config.num_hidden_layers = 1
    config.save_pretrained(folder)
    return folder


def test_a_configuration_alone_is_a_model_of_random_weights(tmp_path):
    save_configuration(tmp_path)
    by_folder, by_file = (load_model(str(path))[0] for path in (tmp_path, tmp_path / "config.json"))
    assert by_folder.config.num_hidden_layers == 1 and by_folder.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(by_folder.parameters(), by_file.parameters(), strict=True))
    assert by_folder.get_input_embeddings().weight.std() > 0
    assert is_configuration(str(tmp_path)) and is_configuration(str(tmp_path / "config.json"))
    by_folder.save_pretrained(tmp_path)
    assert not is_configuration(str(tmp_path))
    assert load_model(str(tmp_path / "config.json"), "bfloat16")[0].dtype == torch.bfloat16


def test_what_cannot_be_loaded_is_one_sentence(tmp_path):
    T5Config(d_model=8, num_layers=1).save_pretrained(tmp_path / "t5")
    (tmp_path / "adapter").mkdir()
    LoraConfig(base_model_name_or_path="base").save_pretrained(tmp_path / "adapter")
    (tmp_path / "text").write_text("no JSON")
    for name, reason in {
        "nowhere": "",
        "t5": "Unrecognized configuration class",
        "adapter": "it is an adapter",
        "text": "",
    }.items():
        with pytest.raises(ValueError, match=f"{name}' cannot be loaded .*{reason}.*Give a causal") as error:
            load_model(str(tmp_path / name))
        assert "\n" not in str(error.value)


def test_a_rank_that_no_matrix_has_is_refused(tmp_path):
    model, tokenizer = load_model("world")
    with pytest.raises(ValueError, match="lora_r is 81, and no matrix of the model has a rank above 80"):
        trainer_for(model, tokenizer, Cost(2, 8, lora_r=81), 1, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--output", "folder"], "--output is 'folder', which is a folder. Give a file in it"),
        (["--trace", "file/trace.json"], "--trace is 'file/trace.json', which cannot be written"),
        (["--trace", "trace.PNG"], "--trace is 'trace.PNG', and its name ends with none of .json, .json.gz, .png"),
        (["--growth", "--dtype", "bfloat16"], "--growth measures times of the world's model in float32, and dtype is"),
        (["--growth", "--trace", "trace.json"], "--growth measures times"),
    ],
)
def test_bad_options_are_one_sentence_before_anything_is_measured(tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    assert main(["bench", "world", *arguments]) == 2
    said = capsys.readouterr().err
    assert f"trl-tar bench: {sentence}" in said and said.count("\n") == 1


def test_flops_are_counted_and_a_step_is_traced(tmp_path):
    cost = Cost(2, 8, num_steps=2, interval=2)
    threads = torch.get_num_threads()
    try:
        count, flops, times = bench_record._times("world", cost, "float32", {}, 1, True)
        bench_record._trace("world", cost, "float32", {}, tmp_path / "trace.json")
    finally:
        torch.set_num_threads(threads)
    model = load_model("world")[0]
    assert count == model.num_parameters() and len(times) == 1
    assert flops == plan(model.config, cost, Mode(bf16=False)).flops > 6 * cost.tokens * 0.5 * count
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    backward = [each for each in events if each.get("name", "").endswith("EmbeddingBackward0") and each["ph"] == "X"]
    evaluated = [each for each in backward if each["name"].startswith("autograd::engine::evaluate_function")]
    assert len(evaluated) == cost.passes  # of one outer step, and no other
    axes = plot_trace(events).axes[0]
    rows = dict(zip([tick.get_text() for tick in axes.get_yticklabels()], axes.collections, strict=True))
    assert list(rows) == [f"host: {each}" for each in (*PHASES, "optimizers", "operators")]
    assert len(rows["host: judgement"].get_paths()) == 1
    assert len(rows["host: optimizers"].get_paths()) == cost.num_steps + 1
    phases = [(each["ts"], each["ts"] + each["dur"]) for each in events if each.get("name") in PHASES]
    threads = {each["tid"] for each in events if each.get("name") in PHASES}
    begins = [each["ts"] for each in evaluated] + [
        each["ts"] for each in events if each.get("name") == "aten::embedding"
    ]
    assert len(threads) == 1 and len(begins) >= 2 * cost.passes + 1
    assert all(any(low <= begin <= high for low, high in phases) for begin in begins)  # each pass is in a phase


def test_a_step_is_drawn(tmp_path):
    threads = torch.get_num_threads()
    try:
        bench_record._trace("world", Cost(2, 8, num_steps=1, interval=1), "float32", {}, tmp_path / "step.png")
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "step.png").read_bytes().startswith(b"\x89PNG") and len(list(tmp_path.iterdir())) == 1


def test_a_picture_says_how_long_a_gpu_computes():
    def event(name, category, begin, end):
        return {"ph": "X", "name": name, "cat": category, "ts": 1000 + begin, "dur": end - begin}

    events = [
        event("outer step", "user_annotation", 0, 100),
        event("outer step", "gpu_user_annotation", 20, 100),
        event("judgement", "user_annotation", 50, 60),
        event("aten::mm", "cpu_op", 0, 10),
        event("gemm", "kernel", 20, 40),
        event("gemm", "kernel", 30, 50),  # on another stream at the same time
        event("Memset (Device)", "gpu_memset", 60, 70),
        event("Memcpy DtoH (Device -> Pinned)", "gpu_memcpy", 70, 90),
        event("Memcpy HtoD (Pinned -> Device)", "gpu_memcpy", 90, 95),
        event("Memcpy DtoD (Device -> Device)", "gpu_memcpy", 95, 99),
        {"ph": "i", "name": "Record Window End", "ts": 1100},
    ]
    axes = plot_trace(events).axes[0]
    assert axes.get_title() == "One outer step: the GPU computes 40% of the time"
    rows = dict(zip([tick.get_text() for tick in axes.get_yticklabels()], axes.collections, strict=True))
    bars = {label: [path.get_extents().intervalx.tolist() for path in row.get_paths()] for label, row in rows.items()}
    assert bars["GPU: kernels"] == [pytest.approx([0.02, 0.05]), pytest.approx([0.06, 0.07])]
    assert bars["GPU: copies to the host"] == [pytest.approx([0.07, 0.09])]
    assert bars["GPU: copies from the host"] == [pytest.approx([0.09, 0.095])]
    assert bars["GPU: copies within it"] == [pytest.approx([0.095, 0.099])]
    assert bars["host: judgement"] == [pytest.approx([0.05, 0.06])] and bars["host: attack"] == []


def test_a_model_that_cannot_be_planned_is_measured_without_its_flops():
    config = load_model("world")[0].config
    with pytest.warns(UserWarning, match="FLOPs are not told: .* has a context of"):
        assert bench_record._flops(config, Cost(2, config.max_position_embeddings + 1)) is None


@pytest.mark.parametrize(
    ("name", "bf16", "flops"),
    [
        ("NVIDIA H100 80GB HBM3", True, 989e12),
        ("NVIDIA H100 80GB HBM3", False, 67e12),
        ("NVIDIA H200 NVL", True, 835e12),
        ("NVIDIA A100-SXM4-80GB", True, 312e12),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", True, None),
        ("another", True, None),
    ],
)
def test_the_flops_of_a_gpu_are_known_by_its_name(monkeypatch, name, bf16, flops):
    assert bench_record.known_flops(bf16) is None or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert bench_record.known_flops(bf16) == flops


def test_the_clock_of_a_gpu_is_read_when_it_has_finished(monkeypatch):
    order = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: order.append("synchronised"))
    monkeypatch.setattr("time.perf_counter", lambda: order.append("read") or 1.0)
    assert bench.now() == 1.0 and order == ["synchronised", "read"]


def test_memory_that_is_freed_is_returned_only_where_peaks_are_measured(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    with bench_record._set(bench_record.RETURNED_AT_ONCE):
        assert os.environ["MALLOC_TRIM_THRESHOLD_"] == os.environ["MALLOC_MMAP_THRESHOLD_"] == "65536"
    assert os.environ["MALLOC_TRIM_THRESHOLD_"] == "1" and "MALLOC_MMAP_THRESHOLD_" not in os.environ


@pytest.mark.slow
def test_the_command_records_time_utilisation_memory_and_a_trace(tmp_path, capsys):
    size = ["--steps", "2", "--batch-size", "2", "--length", "8", "--attack-steps", "2", "--interval", "2"]
    modes = [
        "--bf16",
        "--offload",
        "--optimizer-in-backward",
        "--optimizer",
        "adamw_8bit",
        "--activation-checkpointing",
    ]
    files = ["--output", str(tmp_path / "new" / "out.json"), "--trace", str(tmp_path / "trace.json.gz")]
    folder = str(save_configuration(tmp_path / "model"))
    assert main(["bench", folder, *size, *modes, "--dtype", "bfloat16", "--device-flops", "1e12", *files]) == 0
    assert "with random weights" in capsys.readouterr().out
    record = json.loads((tmp_path / "new" / "out.json").read_text())
    seconds, used = record["seconds"]["trainer"], record["utilisation"]
    assert record["weights"] == "random" and record["dtype"] == "bfloat16" and record["settings"]["offload"]
    assert record["tokens_per_second"] == pytest.approx(4 * 2 * 8 / seconds)
    assert used["mfu"] == pytest.approx(used["flops"] / 1e12 / seconds)
    assert 0 < record["peak_memory"]["trainer"] < 1e8  # nothing of what is imported
    assert list(record["state"]) == ["as asked"] and record["state"]["as asked"]["snapshot"]["host"] > 0
    assert {"cpu", "cores", "threads", "torch", "device"} <= set(record["environment"])
    assert (tmp_path / "trace.json.gz").stat().st_size > 1000


def test_a_record_is_written_as_soon_as_times_are_measured(tmp_path, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_record, "peak_memory", killed)
    sizes = ["--steps", "1", "--batch-size", "2", "--length", "8"]
    assert main(["bench", "world", *sizes, "--output", str(tmp_path / "a.json")]) == 130
    record = json.loads((tmp_path / "a.json.partial").read_text())
    assert record["ratio"]["n"] == 1 and record["peak_memory"] is None and record["state"] == {}
    assert not (tmp_path / "a.json").exists()  # which may have been a whole record


def test_what_is_told_of_a_gpu_is_on_record():
    record = json.loads((RESULTS / "smollm2_h100.json").read_text())
    ratio, told = record["ratio"], PROSE
    assert f"takes {ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}] of the bare loop's time" in told
    tokens, share = record["tokens_per_second"], record["utilisation"]["mfu"]
    assert f"({ratio['n']} pairs), {tokens:,.0f} tokens per second and {share:.1%}".replace("%", " %") in told
    tests = json.loads((RESULTS / "cuda_tests_h100.json").read_text())
    outcomes, measured = tests["outcomes"], tests["measured"]
    counts = Counter(outcomes.values())
    summary = f"Of the {len(outcomes)} tests of `tests/trainers/test_cuda.py`, {counts['passed']} passed, {counts['failed']} failed"
    assert f"{summary} and one did not end" in told and counts["not finished"] == 1
    assert all(outcomes[name] == "failed" for name in measured) and len(measured) == counts["failed"]
    exact = [name for name in outcomes if "equal_the_reference" in name or "changes_no_bit" in name]
    assert exact and all(outcomes[name] == "passed" for name in exact)
    waits = [each["warnings up to each judgement"] for name, each in measured.items() if "waits_for" in name]
    assert [[sum("called" in warning for warning in piece) for piece in each] for each in waits] == [[1, 1]] * 4
    # "short rows" had the sizes of "long rows" in those tests
    peaks = {name: outcome for name, outcome in outcomes.items() if "peak" in name and "short rows" not in name}
    within = [*peaks.values()].count("passed")
    assert f"Of {len(peaks)} peaks" in told and f"{within} were within 10 % of their plans" in told
    for name, each in measured.items():
        if "planned" in each:
            off = round(100 * (each["planned"] / each["allocated"] - 1))
            assert (
                f"ne plan was {-off} % too low" in told
                or f"one {abs(off)} % too {'low' if off < 0 else 'high'}" in told
            )
        if "parameters" in each:
            assert f" {each['allocated'] / each['parameters']:.1f} " in told, name
        for kind in ("AdamW's way", "float32's way"):
            if f"of {kind}" in each:
                assert f"{each[f'of {kind}']:.2f} of {kind.removesuffix(' way')}" in told


def test_what_is_told_of_an_attack_in_8_bits_is_on_record():
    record = json.loads((RESULTS / "eight_bit_world.json").read_text())
    after = sum(run["loss"]["adamw"] for run in record["runs"]) / len(record["runs"])
    behind, told = record["difference of losses"], PROSE
    assert f"from {record['loss before']:.2f} to {after:.2f} nats, it is {record['along']['mean']:.2f} along" in told
    assert f"{100 * record['aside']['mean']:.0f} % aside, and {behind['mean']:.3f}" in told
    assert f"[{behind['low']:.3f}, {behind['high']:.3f}] nats behind" in told


@pytest.mark.parametrize("model", MAX_RATIO)
def test_the_record_is_what_is_told(model):
    record = json.loads((RESULTS / f"{model}.json").read_text())
    peak = record["peak_memory"]
    if model in MAX_PEAK:
        told = f"{peak['ratio']:.2f}: {peak['trainer'] / 1e9:.2f} GB, and {peak['bare_loop'] / 1e9:.2f} GB"
        assert f"| {told} |" in PROSE and peak["ratio"] <= MAX_PEAK[model]
    else:
        assert f"({peak['trainer'] / 1e6:.0f} and {peak['bare_loop'] / 1e6:.0f} MB)" in PROSE
    assert f"{record['ratio']['median']:.2f} [{record['ratio']['low']:.2f}, {record['ratio']['high']:.2f}]" in PROSE


def test_the_growth_that_is_told_was_recorded_and_is_that_of_the_passes():
    points = json.loads((RESULTS / "growth.json").read_text())["points"]
    by_axis = {axis: [each for each in points if each["axis"] == axis] for axis in AXES}
    assert {axis: tuple(each["value"] for each in of) for axis, of in by_axis.items()} == AXES
    for axis in ("num_steps", "adversaries"):
        told = [f"{each['trainer']:.3f}" for each in by_axis[axis]]
        assert f"{', '.join(told[:-1])} and {told[-1]} s" in PROSE
    ratios = [f"{each['trainer'] / each['bare_loop']:.2f}" for each in by_axis["num_steps"]]
    assert f"({min(ratios)} to {max(ratios)} times the bare loop)" in PROSE
    own, *wider = [f"{each['trainer'] / each['bare_loop']:.2f}" for each in by_axis["hidden_size"]]
    told = f"takes {', '.join(wider[:-1])} and {wider[-1]} times the bare loop, one of its own width {own} in the same run."
    assert told in PROSE
    same = json.loads((RESULTS / "world.json").read_text())["seconds"]["trainer"]
    assert f"the same step took {same:.3f} s in that one" in PROSE
    short, long = by_axis["num_steps"][0], by_axis["num_steps"][-1]
    assert long["trainer"] / short["trainer"] < 1.05 * long["passes"] / short["passes"]


def test_what_compiling_would_save_is_what_is_told():
    for model in MAX_RATIO:
        record = json.loads((RESULTS / f"compiled_{model}.json").read_text())
        ratio, seconds = record["ratio"], record["seconds"]
        compiling = seconds["first compiled"], seconds["at another length"], seconds["lora, each adapter"][0]
        shortest, longest = min(compiling), max(compiling)
        if model == "world":
            assert f"after {shortest:.0f} to {longest:.0f} s of compiling" in PROSE
        else:
            assert f"takes {shortest:.0f} to {longest:.0f} s, " in PROSE and ratio["high"] > 1
        assert f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]" in PROSE


FULL_COLUMN = re.findall(r"^\| .*? \| (\d+) \| \d+ \| \d+ \|$", TEXT, re.MULTILINE)  # of the table of memory modes


def test_state_by_kind_is_what_is_told():
    assert len(FULL_COLUMN) == 3
    for model in MAX_RATIO:
        state = json.loads((RESULTS / f"{model}.json").read_text())["state"]
        device = [sum(kind["device"] for kind in kinds.values()) for kinds in state.values()]
        assert [f"{bytes:.0f}" for bytes in device] == FULL_COLUMN
        assert {kind for kind, bytes in state["offload"].items() if bytes["host"]} == {
            *("snapshot", "retain gradient", "outer optimizer", "reference")
        }


@pytest.mark.slow
@pytest.mark.parametrize("model", MAX_RATIO)
def test_time_and_memory_are_within_the_bars(model):
    found = measure(model, Cost(), steps=20 if model == "world" else 8)
    assert found["ratio"]["low"] <= MAX_RATIO[model]
    assert found["peak_memory"]["ratio"] <= MAX_PEAK.get(model, 2.0)
