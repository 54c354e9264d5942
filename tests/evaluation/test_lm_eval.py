"""The bridge to lm-eval: the same answers as our own multiple choice, on a task of one's own and no network."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from support import tiny
from support.hub_server import Repository
from tokenizers import processors

from trl_tar.evaluation import lm_eval as lm_eval_bridge
from trl_tar.evaluation.identity import identity
from trl_tar.evaluation.lm_eval import OWN_TASKS, LMEvalTask
from trl_tar.evaluation.multiple_choice import MultipleChoice
from trl_tar.red_teaming.checks import check_metrics
from trl_tar.testbed import KnowledgeWorld, knowledge_model, knowledge_questions


pytest.importorskip("lm_eval")
WORLD = KnowledgeWorld(0)
WMDP_PARTS = [file.stem.removeprefix("wmdp_bio_robust_") for file in OWN_TASKS.glob("wmdp_bio_robust_*.yaml")]


GENERATED = {
    "dataset_path": "json",
    "test_split": "train",
    "output_type": "generate_until",
    "doc_to_text": "{{q}}",
    "doc_to_target": "{{a}}",
    "generation_kwargs": {"until": ["<eos>"], "do_sample": False, "max_gen_toks": 3},
}
WORD = {"function": "regex", "regex_pattern": r"(w\d+)"}
FILTERS = [
    {"name": name, "filter": [{**WORD, "group_select": place}, {"function": "take_first"}]}
    for name, place in (("first", 0), ("last", -1))
]
CHOSEN = {
    "dataset_path": "json",
    "test_split": "train",
    "output_type": "multiple_choice",
    "doc_to_text": "{{q}}",
    "doc_to_target": 0,
    "doc_to_choice": ["w3", "w4", "w5"],
    "metric_list": [{"metric": "acc"}],
}
RISING = {"aggregation": "mean", "higher_is_better": True}


def write_own_tasks(folder: Path) -> None:
    """Tasks whose numbers are no plain means, and groups of them."""
    for name, count in (("few", 2), ("many", 4)):
        rows = [{"q": f"w{i} w{i + 1}", "a": "w3"} for i in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = {name: {"dataset_kwargs": {"data_files": str(folder / f"{name}.jsonl")}} for name in ("few", "many")}
    exact = [{"metric": "exact_match", **RISING}]
    described = [
        {"task": "filtered", **GENERATED, **files["many"], "metric_list": exact, "filter_list": FILTERS},
        {"task": "own_few", **CHOSEN, **files["few"]},
        {"task": "own_many", **CHOSEN, **files["many"], "num_fewshot": 0},
        {
            "task": "perplexed",
            "dataset_path": "json",
            **files["few"],
            "test_split": "train",
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{q}}",
            "metric_list": [{"metric": "word_perplexity"}],
        },
        {
            "task": "costly",
            **GENERATED,
            **files["few"],
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": False}],
        },
        *(
            {"group": name, "task": ["own_few", "own_many"], "aggregate_metric_list": printed}
            for name, printed in (
                ("by_size", [{"metric": "acc", "weight_by_size": True}]),
                ("unweighted", [{"metric": "acc", "weight_by_size": False}]),
                ("unprinted", []),
            )
        ),
    ]
    for each in described:
        (folder / f"{each.get('task') if 'group' not in each else each['group']}.yaml").write_text(yaml.safe_dump(each))


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Folder of a task, and its questions."""
    folder = tmp_path_factory.mktemp("tasks")
    questions = knowledge_questions(WORLD)["harm"][:24]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    described = {
        "task": "invented_facts",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": str(folder / "questions.jsonl")},
        "test_split": "train",
        "output_type": "multiple_choice",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "doc_to_choice": "{{choices}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    (folder / "invented_facts.yaml").write_text(yaml.safe_dump(described))
    write_own_tasks(folder)  # into the same folder: lm-eval takes seconds to list what it has for each
    return str(folder), questions


@pytest.fixture
def own_tasks(task):
    return task[0]


@pytest.mark.parametrize("kind", ["base", "floor"])
def test_answers_are_those_of_our_own_multiple_choice(task, kind, capfd):
    folder, questions = task
    model = knowledge_model(WORLD, kind).eval()
    scores = LMEvalTask("invented_facts", include_path=folder)(model, WORLD.tokenizer())
    assert scores.values == MultipleChoice(questions)(model, WORLD.tokenizer()).values
    assert scores.groups[:2] == ["invented_facts/0", "invented_facts/1"]
    assert "Running" not in capfd.readouterr().err


def test_a_limit_is_kept(task):
    scores = LMEvalTask("invented_facts", limit=5, include_path=task[0])(knowledge_model(WORLD), WORLD.tokenizer())
    assert len(scores.values) == 5


def test_what_lm_eval_does_not_have_is_one_sentence(task):
    model, tokenizer = knowledge_model(WORLD), WORLD.tokenizer()
    with pytest.raises(ValueError, match="lm-eval has no task 'no_such_task'. List those"):
        LMEvalTask("no_such_task").check(tokenizer)
    with pytest.raises(ValueError, match="lm-eval has no task 'no_such_task'. List those"):
        LMEvalTask("no_such_task")(model, tokenizer)
    LMEvalTask("invented_facts", include_path=task[0]).check(tokenizer)
    with pytest.raises(ValueError, match=r"has \['acc'\], without 'f1'. Name one"):
        LMEvalTask("invented_facts", "f1", include_path=task[0])(model, tokenizer)
    with pytest.raises(ValueError, match="'wmdp_bio' of lm-eval cannot be loaded .*in the cache, or within reach"):
        LMEvalTask("wmdp_bio").check(tokenizer)
    with pytest.raises(ValueError, match="'wmdp_bio' of lm-eval cannot be loaded .*in the cache, or within reach"):
        LMEvalTask("wmdp_bio")(model, tokenizer)


@cache
def saying(words: str):
    """A model that says these words for ever, one after the other."""
    tokenizer = tiny.tokenizer()
    ids = torch.tensor([tokenizer(f"w{i} w{i + 1} {words} <eos>")["input_ids"] for i in range(4)])
    model = tiny.llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2)
    for _ in range(60):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def test_one_named_filter_gives_one_score_a_question(own_tasks):
    model, tokenizer = saying("w3 w4"), tiny.tokenizer()
    first, last = (
        LMEvalTask("filtered", "exact_match", name, include_path=own_tasks)(model, tokenizer)
        for name in ("first", "last")
    )
    assert (first.values, last.values) == ([1.0] * 4, [0.0] * 4)
    for name in (None, "middle"):
        with pytest.raises(ValueError, match=r"the filters \['first', 'last'\].*Name one: filter='first'"):
            LMEvalTask("filtered", "exact_match", name, include_path=own_tasks).check(tokenizer)
    with pytest.raises(ValueError, match=r"the filters \['first', 'last'\].*Name one: filter='first'"):
        LMEvalTask("filtered", "exact_match", limit=1, include_path=own_tasks)(model, tokenizer)


def test_the_mean_of_a_group_is_what_lm_eval_prints(own_tasks):
    model, tokenizer = saying("w3 w4"), tiny.tokenizer()
    metric = LMEvalTask("by_size", include_path=own_tasks)
    metric.check(tokenizer)
    assert len(metric(model, tokenizer).values) == 6
    for name in ("unweighted", "unprinted"):
        with pytest.raises(
            ValueError, match=f"prints no mean of 'acc' over all questions of '{name}'. Name one of its"
        ):
            LMEvalTask(name, include_path=own_tasks).check(tokenizer)


def test_what_is_no_mean_over_questions_is_refused_before_any_work(own_tasks):
    tokenizer = tiny.tokenizer()
    with pytest.raises(
        ValueError, match="'word_perplexity' as weighted_perplexity over all questions, which is no mean"
    ):
        LMEvalTask("perplexed", "word_perplexity", include_path=own_tasks).check(tokenizer)
    with pytest.raises(ValueError, match=r"'own_few' of lm-eval has \['acc'\], without 'f1'. Name one"):
        LMEvalTask("by_size", "f1", include_path=own_tasks).check(tokenizer)
    with pytest.raises(ValueError, match="asked without examples only, and num_fewshot is 2. Leave it out"):
        LMEvalTask("own_many", num_fewshot=2, include_path=own_tasks).check(tokenizer)


def test_a_number_of_which_less_is_better_is_no_harm(own_tasks):
    falling = LMEvalTask("costly", "exact_match", include_path=own_tasks)
    assert (falling.higher_is_better(), LMEvalTask("own_few", include_path=own_tasks).higher_is_better()) == (
        False,
        True,
    )
    with pytest.raises(ValueError, match="Metric 'harm' is .* where lower is better, and a report reads a share"):
        check_metrics({"harm": falling, "capability": falling})
    with pytest.raises(ValueError, match="Metric 'retain_nll' is .* where higher is better, and a report reads a loss"):
        rising = LMEvalTask("own_few", include_path=own_tasks)
        check_metrics({"harm": rising, "capability": rising, "retain_nll": rising})


def test_a_task_is_asked_in_the_chat_template_where_that_is_wanted(own_tasks):
    tokenizer, seen = tiny.tokenizer(), []
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<unk> $A", special_tokens=[("<unk>", 2)]
    )
    model = saying("w3 w4")
    hook = model.register_forward_pre_hook(
        lambda m, a, k: seen.append((a[0] if a else k["input_ids"])[0]), with_kwargs=True
    )
    metric = LMEvalTask("own_few", limit=1, chat=True, include_path=own_tasks)
    metric.check(tokenizer)
    metric(model, tokenizer)
    hook.remove()
    assert tokenizer.decode(seen[0]).startswith("user w0 w1 assistant")
    assert (metric.wording(), LMEvalTask("own_few").wording()) == ("chat template", "plain text")
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="has no chat template"):
        metric.check(tokenizer)


def test_questions_that_lm_eval_would_cut_are_refused(own_tasks):
    model, tokenizer = tiny.llama(max_position_embeddings=4), tiny.tokenizer()
    with pytest.raises(ValueError, match=r"of \d+ tokens, of which the model's context leaves \d.*Lower num_fewshot"):
        LMEvalTask("own_few", num_fewshot=1, include_path=own_tasks)(model, tokenizer)
    with pytest.raises(ValueError, match=r"of \d+ tokens, of which the model's context leaves 1,.*Lower num_fewshot"):
        LMEvalTask("filtered", "exact_match", "first", include_path=own_tasks)(model, tokenizer)


def test_a_task_of_other_files_is_another_metric(tmp_path):
    data, task = tmp_path / "data" / "rows.jsonl", tmp_path / "tasks" / "own.yaml"
    found = set()
    for rows, answer in (("1", "0"), ("2", "0"), ("2", "1")):
        for file, text in (
            (data, rows),
            (task, f"task: own\ndataset_kwargs: {{data_files: {data}}}\ndoc_to_target: {answer}"),
        ):
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        found |= {identity(LMEvalTask("own", include_path=str(task.parent))) for _ in range(2)}
    assert len(found) == 3


@pytest.fixture
def wmdp(datasets_hub):
    """Stand-in questions with the columns of WMDP's two versions, at the commits of this package's tasks; others since then."""
    asked = [{"question": f"w{i} w{i + 1}", "choices": ["w3", "w4", "w5", "w6 w7"], "answer": i % 4} for i in range(3)]
    for file in sorted(OWN_TASKS.iterdir()):
        described = yaml.safe_load(file.read_text())
        if "dataset_path" not in described:
            continue
        repository = datasets_hub.repositories.setdefault(f"datasets/{described['dataset_path']}", Repository())
        repository.commit("main", {"data/other.jsonl": json.dumps({"other": 1}).encode()}, "changed since")
        split = described["test_split"]
        configs = [
            {
                "config_name": name,
                "data_files": [{"split": split, "path": f"{name}/{split}.jsonl"}],
            }
            for name in (WMDP_PARTS if split == "robust" else ["default"])
        ]
        files = {each["data_files"][0]["path"]: "\n".join(map(json.dumps, asked)).encode() for each in configs}
        card = {"README.md": f"---\n{yaml.safe_dump({'configs': configs})}---\n".encode()}
        repository.commits[described["dataset_kwargs"]["revision"]] = {**files, **card}
    lm_eval_bridge._tasks.cache_clear()
    return asked


def test_wmdp_that_no_shortcut_solves_is_there_by_one_word(wmdp):
    model, tokenizer = knowledge_model(WORLD).eval(), WORLD.tokenizer()
    robust = LMEvalTask("wmdp_bio_robust")
    robust.check(tokenizer)
    scores = robust(model, tokenizer)
    assert len(scores.values) == len(WMDP_PARTS) * len(wmdp) and set(scores.values) <= {0.0, 1.0}
    cloze = LMEvalTask("wmdp_bio_cloze_verified", "acc_norm")
    cloze.check(tokenizer)
    assert len(cloze(model, tokenizer).values) == len(wmdp)
    with pytest.raises(ValueError, match="without 'acc'. Name one of them"):
        LMEvalTask("wmdp_bio_cloze_verified").check(tokenizer)


def test_tasks_of_this_package_that_are_out_of_reach_are_one_sentence():
    lm_eval_bridge._tasks.cache_clear()
    with pytest.raises(
        ValueError, match="'wmdp_bio_robust' of lm-eval cannot be loaded .*in the cache, or within reach"
    ):
        LMEvalTask("wmdp_bio_robust").check(tiny.tokenizer())
