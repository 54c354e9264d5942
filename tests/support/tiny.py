"""Tiny models, data sets and trainers, made from seeds."""

import random
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from trl_tar import Adversary, TARConfig, TARTrainer


WORDS = [f"w{i}" for i in range(24)]
VOCABULARY = ["<pad>", "<eos>", "<unk>", "user", "assistant", *WORDS]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ' ' + message['content'] + ' ' }}"
    "{% if message['role'] == 'assistant' %}{{ '<eos>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
)
# what a trainer of these tests has unless a test says otherwise; steps are large, so that every mistake moves the weights
TRAINER = {
    "max_steps": 3,
    "learning_rate": 0.1,
    "optim": "sgd",
    "per_device_train_batch_size": 4,
    "train_sampling_strategy": "sequential",
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "save_strategy": "no",
    "logging_steps": 1,
    "disable_tqdm": True,
}
SETTINGS = {
    **TRAINER,
    "tamper_resistance_batch_size": 3,
    "tamper_resistance_interval": 2,
    "tamper_resistance_weight": 2.0,
    "representation_weight": 0.5,
}
ATTACK = {"learning_rate": 0.02, "num_steps": 4, "batch_size": 4}


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        chat_template=CHAT_TEMPLATE,
    )


def gpt2(seed: int = 0, dtype: torch.dtype = torch.float64) -> GPT2LMHeadModel:
    """Tied weights, biases, norms and `Conv1D`; exact in float64, unlike Llama."""
    config = GPT2Config(
        vocab_size=len(VOCABULARY),
        n_positions=16,
        n_embd=8,
        n_layer=2,
        n_head=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=0.3,
        attn_implementation="eager",
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
    )
    return seeded(GPT2LMHeadModel, config, seed).to(dtype)


def llama(seed: int = 0, **config) -> LlamaForCausalLM:
    """Untied weights and rotary positions, in float32."""
    defaults = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 1,
    }
    return seeded(LlamaForCausalLM, LlamaConfig(**{**defaults, **config}), seed)


def gemma(seed: int = 0) -> GemmaForCausalLM:
    """Tied and scaled embeddings, and one key for all heads, in float32."""
    config = GemmaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        max_position_embeddings=16,
        initializer_range=0.3,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
    )
    return seeded(GemmaForCausalLM, config, seed)


def saying(words: str, **config) -> LlamaForCausalLM:
    """A model that says the words one after the other, each being followed by the same word always, and `<eos>` after others."""
    model = llama(hidden_size=32, num_attention_heads=2, max_position_embeddings=64, **config).requires_grad_(False)
    for layer in model.model.layers:  # which leave the residual stream as it is
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    model.model.embed_tokens.weight.copy_(torch.eye(32)[: len(VOCABULARY)])
    ids = [VOCABULARY.index(word) for word in words.split()]
    follows = dict.fromkeys(range(len(VOCABULARY)), VOCABULARY.index("<eos>")) | dict(zip(ids, ids[1:], strict=False))
    model.lm_head.weight.zero_()
    for token, following in follows.items():
        model.lm_head.weight[following, token] = 5.0
    return model.requires_grad_(True).eval()


def seeded(model_class, config, seed: int):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model_class(config)


def sentence(rng: random.Random, low: int, high: int) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(low, high)))


def prompt_completion(count: int, seed: str) -> Dataset:
    rng = random.Random(seed)
    pairs = [(sentence(rng, 1, 4), " " + sentence(rng, 1, 6)) for _ in range(count)]
    return Dataset.from_dict({"prompt": [p for p, _ in pairs], "completion": [c for _, c in pairs]})


def text(count: int, seed: str) -> Dataset:
    rng = random.Random(seed)
    return Dataset.from_dict({"text": [sentence(rng, 2, 9) for _ in range(count)]})


def conversational(count: int, seed: str) -> Dataset:
    rng = random.Random(seed)
    messages = [
        [
            {"role": "user", "content": sentence(rng, 1, 3)},
            {"role": "assistant", "content": sentence(rng, 1, 5)},
        ]
        for _ in range(count)
    ]
    return Dataset.from_dict({"messages": messages})


def preference(count: int, seed: str) -> Dataset:
    rng = random.Random(seed)
    triples = [(sentence(rng, 1, 3), " " + sentence(rng, 1, 5), " " + sentence(rng, 1, 5)) for _ in range(count)]
    return Dataset.from_dict({name: [t[i] for t in triples] for i, name in enumerate(("prompt", "chosen", "rejected"))})


def ids(words: str) -> list[int]:
    return [VOCABULARY.index(word) for word in words.split()]


def tokenised_language(data: Dataset) -> list[dict]:
    """Rows as TRL should make them: end of text added, prompts masked."""
    rows = []
    for row in data:
        prompt, completion = ids(row.get("prompt", "")), ids(row.get("completion", row.get("text"))) + [1]
        rows.append({"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion})
    return rows


def tokenised_preference(data: Dataset) -> list[dict]:
    return [
        {
            "prompt_ids": ids(row["prompt"]),
            "chosen_ids": ids(row["chosen"]) + [1],
            "rejected_ids": ids(row["rejected"]) + [1],
        }
        for row in data
    ]


def raw() -> dict[str, Dataset]:
    return {
        "retain": prompt_completion(12, "retain"),
        "forget": prompt_completion(10, "forget"),
        "rehearsal": text(9, "rehearsal"),
        "tamper_resistance": prompt_completion(7, "tamper-resistance"),
        "pairs": preference(9, "pairs"),
        "tamper_resistance_pairs": preference(6, "tamper-resistance"),
    }


def tokenised() -> dict[str, list[dict]]:
    return {
        name: tokenised_preference(data) if "chosen" in data.column_names else tokenised_language(data)
        for name, data in raw().items()
    }


def make_trainer(
    output_dir: Path | str,
    model=None,
    *,
    adversaries: list[Adversary] | None = None,
    data: dict[str, Dataset] | None = None,
    tamper_resistance_dataset: Dataset | None = None,
    callbacks=None,
    peft_config=None,
    ref_model=None,
    eval_dataset=None,
    compute_metrics=None,
    **settings,
) -> TARTrainer:
    """A trainer on tokenised data (nothing to map) unless `data` replaces a set by name."""
    sets = {name: Dataset.from_list(rows) for name, rows in tokenised().items()} | (data or {})
    pairs = settings.get("tamper_resistance_loss") == "dpo"
    if tamper_resistance_dataset is None:
        tamper_resistance_dataset = sets["tamper_resistance_pairs" if pairs else "tamper_resistance"]
    return TARTrainer(
        gpt2() if model is None else model,
        TARConfig(str(output_dir), **{**SETTINGS, **settings}),
        train_dataset=sets["retain"],
        eval_dataset=eval_dataset,
        tamper_resistance_dataset=tamper_resistance_dataset,
        adversaries=[Adversary("forget", "forget", **ATTACK)] if adversaries is None else adversaries,
        adversary_datasets={name: sets[name] for name in ("forget", "rehearsal", "retain", "pairs")},
        processing_class=tokenizer(),
        callbacks=callbacks,
        peft_config=peft_config,
        ref_model=ref_model,
        compute_metrics=compute_metrics,
    )


def weights(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def displacement_error(actual: dict, expected: dict, start: dict) -> float:
    """max |Δ_actual − Δ_expected| / max |Δ_expected|."""
    assert actual.keys() == expected.keys()
    error = max((actual[n] - expected[n]).abs().max().item() for n in expected)
    moved = max((expected[n] - start[n]).abs().max().item() for n in expected)
    return error / moved if moved else float("inf")
