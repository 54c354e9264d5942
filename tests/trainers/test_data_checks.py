"""Every input that cannot be trained with is refused by one clear sentence, before anything is trained."""

import pytest
from datasets import Dataset
from peft import IA3Config, PromptTuningConfig
from support import tiny
from support.sentences import one_sentence

from trl_tar import Adversary, TARConfig, TARTrainer


ROWS = tiny.tokenised()
GOOD = {"dataset": "forget", **tiny.ATTACK}


def rows(name: str, count: int | None = None) -> Dataset:
    return Dataset.from_list(ROWS[name][:count])


def with_entities(name: str, entities: list[str]) -> Dataset:
    data = tiny.raw()[name].select(range(len(entities)))
    return data.add_column("entity", entities)


# arguments of `make_trainer` → what the message must name
REFUSED = {
    "empty retain": ({"data": {"retain": rows("retain", 0)}}, ["train_dataset", "0 rows"]),
    "empty D_TR": (
        {"tamper_resistance_dataset": rows("tamper_resistance", 0)},
        ["tamper_resistance_dataset", "0 rows"],
    ),
    "empty forget": ({"data": {"forget": rows("forget", 0)}}, ["adversary_datasets['forget']", "0 rows"]),
    "no data set": ({"tamper_resistance_dataset": ["a"]}, ["tamper_resistance_dataset", "list", "datasets.Dataset"]),
    "columns of retain": (
        {"data": {"retain": Dataset.from_dict({"sentence": ["w1 w2"] * 8})}},
        ["train_dataset", "sentence", "text"],
    ),
    "pairs for entropy": ({"tamper_resistance_dataset": rows("pairs")}, ["tamper_resistance_dataset", "chosen_ids"]),
    "text for dpo": (
        {"tamper_resistance_dataset": rows("forget"), "tamper_resistance_loss": "dpo"},
        ["tamper_resistance_dataset", "chosen", "rejected"],
    ),
    "pairs for an sft adversary": (
        {"adversaries": [Adversary("a", "pairs", **tiny.ATTACK)]},
        ["adversary_datasets['pairs']", "chosen_ids"],
    ),
    "unnamed data set": (
        {"adversaries": [Adversary("a", "hazard", **tiny.ATTACK)]},
        ["'a'", "'hazard'", "adversary_datasets", "forget"],
    ),
    "unnamed in a mixture": (
        {"adversaries": [Adversary("a", mixture={"forget": 1, "hazard": 1}, **tiny.ATTACK)]},
        ["'a'", "'hazard'"],
    ),
    "rows without a token to predict": ({"max_length": 1}, ["train_dataset", "0 rows", "max_length"]),
    "retain below a batch that is not dropped": (
        {"per_device_train_batch_size": 64, "dataloader_drop_last": True},
        ["train_dataset", "takes 64"],
    ),
    "text that is none": (
        {"data": {"retain": Dataset.from_dict({"text": ["w1 w2", None]})}},
        ["train_dataset", "1 rows without a value", "'text'"],
    ),
    "numbers for text": (
        {"data": {"retain": Dataset.from_dict({"text": [1, 2]})}},
        ["train_dataset", "int64", "'text'"],
    ),
    "empty evaluation": ({"eval_dataset": rows("retain", 0)}, ["eval_dataset", "0 rows"]),
    "columns of evaluation": (
        {"eval_dataset": {"held_out": Dataset.from_dict({"sentence": ["w1"]})}},
        ["eval_dataset['held_out']", "sentence"],
    ),
    "one target misspelt": (
        {"adversaries": [Adversary("a", "forget", lora_r=2, lora_target_modules=("c_attn", "c_atn"), **tiny.ATTACK)]},
        ["'a'", "'c_atn'", "no module"],
    ),
    "a target that PEFT cannot adapt": (
        {"adversaries": [Adversary("a", "forget", lora_r=2, lora_target_modules=("ln_1",), **tiny.ATTACK)]},
        ["'a'", "ln_1", "cannot adapt"],
    ),
    "adapters that cannot be combined": (
        {
            "adversaries": [Adversary("a", "forget", lora_r=2, **tiny.ATTACK)],
            "peft_config": IA3Config(task_type="CAUSAL_LM", target_modules=["c_attn"], feedforward_modules=[]),
        },
        ["'a'", "cannot adapt"],
    ),
    "a soft prompt to train": (
        {"peft_config": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)},
        ["peft_config", "PromptTuningConfig"],
    ),
    "a share of warm-up for Schedule-Free": (
        {"optim": "schedule_free_adamw", "warmup_steps": 0.5},
        ["schedule_free_adamw", "warmup_steps=0.5"],
    ),
    "a schedule for Schedule-Free": (
        {"optim": "schedule_free_adamw", "lr_scheduler_type": "cosine"},
        ["schedule_free_adamw", "cosine"],
    ),
    "interval of an empty YAML value": ({"tamper_resistance_interval": None}, ["tamper_resistance_interval=None"]),
    "no adversaries in a step": ({"adversaries_per_step": None}, ["adversaries_per_step=None"]),
    "no learning rate": ({"learning_rate": None}, ["learning_rate=None"]),
    "forget below a batch": (
        {"data": {"forget": rows("forget", 3)}},
        ["'forget'", "takes 4 rows", "has 3", "batch_size"],
    ),
    "first data set below a batch": (
        {
            "data": {"rehearsal": rows("rehearsal", 3)},
            "adversaries": [Adversary("a", "forget", first_dataset="rehearsal", **tiny.ATTACK)],
        },
        ["'rehearsal'", "takes 4 rows", "has 3"],
    ),
    "D_TR below a batch": (
        {"tamper_resistance_batch_size": 8},
        ["tamper_resistance_dataset", "7 rows", "tamper_resistance_batch_size=8"],
    ),
    "D_TR below a batch once cut": (
        {
            "tamper_resistance_dataset": Dataset.from_dict(
                {"prompt": ["w1 w2 w3 w4", "w1", "w1", "w1"], "completion": [" w5"] * 4}
            ),
            "tamper_resistance_batch_size": 4,
            "max_length": 3,
        },
        ["tamper_resistance_dataset", "3 rows", "tamper_resistance_batch_size=4"],
    ),
    "no adversary": ({"adversaries": ()}, ["adversaries", "empty"]),
    "two of a name": (
        {"adversaries": [Adversary("a", "forget", **tiny.ATTACK), Adversary("a", "rehearsal", **tiny.ATTACK)]},
        ["'a'", "own name"],
    ),
    "too few steps": (
        {"adversaries": [Adversary("a", "forget", **{**tiny.ATTACK, "num_steps": 1})]},
        ["'a'", "num_steps=1", "tamper_resistance_interval=2"],
    ),
    "quantised attack": (
        {"adversaries": [Adversary("a", "forget", lora_r=2, quantization="nf4", **tiny.ATTACK)]},
        ["'a'", "nf4", "red_team"],
    ),
    "reinforcement": (
        {"adversaries": [Adversary("a", "forget", objective="grpo", reward="r", num_generations=2, **tiny.ATTACK)]},
        ["'a'", "objective='grpo'", "red_team"],
    ),
    "edited weights": (
        {"adversaries": [Adversary("a", "forget", edit="int8", **tiny.ATTACK)]},
        ["'a'", "edit='int8'", "red_team"],
    ),
    "one attack after another": (
        {"adversaries": [Adversary("a", "forget", after=Adversary("b", "retain"), **tiny.ATTACK)]},
        ["'a'", "after=", "red_team"],
    ),
    "soft prompt": (
        {"adversaries": [Adversary("a", "forget", num_virtual_tokens=4, **tiny.ATTACK)]},
        ["'a'", "num_virtual_tokens=4", "red_team"],
    ),
    "shared entities": (
        {
            "tamper_resistance_dataset": with_entities("tamper_resistance", ["Aba", "Bab", "Cab"]),
            "data": {"forget": with_entities("forget", ["Cab", "Dab", "Eab", "Fab"])},
        },
        ["tamper_resistance_dataset", "adversary_datasets['forget']", "1 entities", "'Cab'"],
    ),
    "partly shared entities": (
        {
            "data": {
                "retain": with_entities("retain", ["Aba", "Bab", "Cab", "Dab"]),
                "forget": with_entities("forget", ["Cab", "Dab", "Eab", "Fab"]),
            }
        },
        ["train_dataset", "adversary_datasets['forget']", "2 entities"],
    ),
    "unknown tamper-resistance loss": ({"tamper_resistance_loss": "kl"}, ["tamper_resistance_loss='kl'", "'entropy'"]),
    "unknown weighting": ({"inner_weighting": "linear"}, ["inner_weighting='linear'", "'uniform'"]),
    "negative weight of the cross-entropy": ({"lm_weight": -1}, ["lm_weight=-1", "at least 0"]),
    "weight at the output that is no number": ({"kl_weight": "much"}, ["kl_weight='much'", "a number"]),
    "no retain term": (
        {"lm_weight": 0, "representation_weight": 0, "kl_weight": 0},
        ["lm_weight=0, representation_weight=0, kl_weight=0", "at least one"],
    ),
    "unknown anchor": ({"representation_loss": "l1"}, ["representation_loss='l1'", "'l2_squared'"]),
    "negative weight": ({"retain_weight": -1.0}, ["retain_weight=-1.0", "at least 0"]),
    "nan weight": ({"tamper_resistance_weight": float("nan")}, ["tamper_resistance_weight=nan", "finite"]),
    "infinite rate": ({"inner_weighting_rate": float("inf")}, ["inner_weighting_rate=inf", "finite"]),
    "zero beta": ({"beta": 0.0}, ["beta=0.0", "above 0"]),
    "temperature of zero": ({"kl_temperature": 0}, ["kl_temperature=0", "above 0"]),
    "no interval": ({"tamper_resistance_interval": 0}, ["tamper_resistance_interval=0", "at least 1"]),
    "more groups than attacks": (
        {"adversary_parallel_size": 2},
        ["adversaries_per_step=1 with adversary_parallel_size=2", "multiple"],
    ),
    "more groups than devices": (
        {"adversaries_per_step": 2, "adversary_parallel_size": 2},
        ["adversary_parallel_size=2", "does not divide the number of devices, 1."],
    ),
    "no adversaries a step": ({"adversaries_per_step": 0}, ["adversaries_per_step=0", "at least 1"]),
    "empty micro-batches": ({"tamper_resistance_micro_batch_size": 0}, ["micro_batch_size=0", "at least 1"]),
    "re-entrant checkpointing": (
        {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": True}},
        ["use_reentrant", "False"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_argument_is_refused_by_one_sentence(make_trainer, case):
    arguments, wanted = REFUSED[case]
    arguments = {"adversaries": [Adversary("forget", "forget", **tiny.ATTACK)], **arguments}
    with pytest.raises(ValueError) as error:
        make_trainer(**arguments)
    message = one_sentence(error)
    assert all(words in message for words in wanted), message


def test_one_data_set_for_two_objectives_is_refused(make_trainer):
    both = Dataset.from_list([{**a, **b} for a, b in zip(ROWS["forget"], ROWS["pairs"], strict=False)])
    adversaries = [
        Adversary("sft", "pairs", **tiny.ATTACK),
        Adversary("dpo", "pairs", objective="dpo", **tiny.ATTACK),
    ]
    with pytest.raises(ValueError, match="'pairs'.*'sft' and 'dpo'") as error:
        make_trainer(adversaries=adversaries, data={"pairs": both})
    one_sentence(error)


def test_columns_may_have_any_name_where_a_function_formats_them(tmp_path):
    data = Dataset.from_dict({"question": ["w1"] * 8, "answer": ["w2 w3"] * 8})
    raw = tiny.raw()
    trainer = TARTrainer(
        tiny.gpt2(),
        TARConfig(str(tmp_path), **{**tiny.SETTINGS, "max_steps": 1}),
        train_dataset=data,
        tamper_resistance_dataset=raw["tamper_resistance"],
        adversaries=[Adversary("forget", "forget", **tiny.ATTACK)],
        adversary_datasets={"forget": raw["forget"]},
        processing_class=tiny.tokenizer(),
        formatting_func=lambda row: f"{row['question']} {row['answer']}",
    )
    trainer.train()
    assert trainer.state.global_step == 1


@pytest.mark.parametrize(
    "name", ["train_dataset", "eval_dataset['long']", "tamper_resistance_dataset", "adversary_datasets['forget']"]
)
@pytest.mark.parametrize("model", ["learned", "rotary"])
def test_rows_beyond_the_context_are_refused(make_trainer, name, model):
    long = Dataset.from_dict(
        {"text": [" ".join(tiny.WORDS[:20])] * 10}
    )  # 21 tokens with the end of text, and a context of 16
    sets = {
        "train_dataset": {"data": {"retain": long}},
        "eval_dataset['long']": {"eval_dataset": {"long": long}},
        "tamper_resistance_dataset": {"tamper_resistance_dataset": long},
        "adversary_datasets['forget']": {"data": {"forget": long}},
    }
    with pytest.raises(ValueError) as error:
        make_trainer(tiny.gpt2() if model == "learned" else tiny.llama(), **sets[name])
    assert one_sentence(error) == (
        f"`{name}` has a row of 21 tokens, max_length is 256, and the model's context 16. Lower max_length."
    )
    make_trainer(tiny.gpt2() if model == "learned" else tiny.llama(), max_length=16, **sets[name])


STRICT = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role here') }}{% endif %}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must take turns') }}{% endif %}"
    + tiny.CHAT_TEMPLATE.split("%}", 1)[1].replace("message[", "m[")
)


@pytest.mark.parametrize(
    ("roles", "said"),
    [("system user assistant", "no system role here"), ("user user assistant", "roles must take turns")],
)
@pytest.mark.parametrize("name", ["train_dataset", "adversary_datasets['forget']"])
def test_turns_that_the_template_refuses_are_named_by_row(make_trainer, monkeypatch, roles, said, name):
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = STRICT
    monkeypatch.setattr(tiny, "tokenizer", lambda: tokenizer)
    fine = [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]
    odd = [{"role": role, "content": "w1"} for role in roles.split()]
    chats = Dataset.from_dict({"messages": [fine] * 9 + [odd]})
    key = "retain" if name == "train_dataset" else "forget"
    with pytest.raises(ValueError) as error:
        make_trainer(data={key: chats})
    assert one_sentence(error) == (
        f"`{name}` has a row that cannot be written, row 9 (the first is row 0): The chat template refuses turns of "
        f"{roles.replace(' ', ', ')} ({said}). Give turns as the template takes them."
    )
    make_trainer(data={key: chats.select(range(9))})


@pytest.mark.parametrize(
    "template", [tiny.CHAT_TEMPLATE, tiny.CHAT_TEMPLATE.replace("['content']", "['content'] | trim")]
)
def test_blocks_of_text_are_read_as_one_text(make_trainer, monkeypatch, template):
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    monkeypatch.setattr(tiny, "tokenizer", lambda: tokenizer)
    blocks = [{"role": "user", "content": [{"type": "text", "text": "w0 "}, {"type": "text", "text": "w2"}]}]
    blocks += [{"role": "assistant", "content": [{"type": "text", "text": "w5 w6"}]}]
    data = Dataset.from_dict({"messages": [blocks] * 10})
    trainer = make_trainer(data={"forget": data, "retain": data}, tamper_resistance_dataset=data)
    for rows in (trainer._adversary_rows["forget"], trainer._tamper_resistance_rows, trainer.train_dataset):
        assert tokenizer.decode(rows[0]["input_ids"]) == "user w0 w2 assistant w5 w6 <eos>"
    picture = Dataset.from_dict(
        {"messages": [[{"role": "user", "content": [{"type": "image", "text": "w"}]}, blocks[1]]] * 10}
    )
    with pytest.raises(ValueError, match=r"'image'.*row 0 .*a list of blocks of type 'text' alone") as error:
        make_trainer(data={"forget": picture})
    one_sentence(error)
