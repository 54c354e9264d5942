"""A tiny model of every causal language model of transformers, and what trainers and likelihoods make of each.

`python -m support.architectures [MODEL_TYPE …]` in the folder `tests` makes `architectures.md` anew, of some classes or of all."""

import importlib.metadata
import json
import os
import re
import resource
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from datasets import Dataset
from support import tiny
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from trl_tar import Adversary, RandomMappingConfig, RandomMappingTrainer
from trl_tar.evaluation.likelihoods import log_likelihoods
from trl_tar.models.architecture import outputs_of
from trl_tar.models.loading import load


TABLE = Path(__file__).with_suffix(".md")
SECONDS = 120  # of processor time for a class; a tiny model takes a few
MOST_PARAMETERS = 2_000_000  # a model that is larger was not made tiny
# name of a field of a configuration → its value in a tiny model, wherever a configuration has one of that name
SMALL = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 32),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "n_embed", "emb_dim", "embedding_size"), 32),
    **dict.fromkeys(("word_embed_proj_dim", "embedding_dim", "lru_width"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "d_inner", "ffn_hidden_size", "d_ff", "dff"), 48),
    **dict.fromkeys(("feed_forward_size", "encoder_ffn_dim", "decoder_ffn_dim", "block_ff_dim", "dim_ff"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_decoder_layers", "num_encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "num_encoder_attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    **dict.fromkeys(("head_dim", "dim_head", "query_pre_attn_scalar", "patch_size"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 64),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k"), 2),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "qk_head_dim", "image_size", "laurel_rank"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "sliding_window"), 8),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "hidden_size_per_layer_input"), 8),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(("state_size", "mamba_d_state", "mamba_dt_rank", "time_step_rank"), 4),
    **dict.fromkeys(("bos_token_id", "eos_token_id"), 1),
    "pad_token_id": 0,
}
MULTI_HEAD_LATENT = {"num_key_value_heads": 4}  # as many as heads, of which each has a latent of its own
# model type → fields that SMALL does not know, or must not touch
OVERRIDES: dict[str, dict] = {
    "axk1": MULTI_HEAD_LATENT,
    "axk2": MULTI_HEAD_LATENT,
    "bamba": {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "attn_layer_indices": [1]},
    "bert": {"is_decoder": True},
    "cpmant": {"prompt_length": 4, "segment_types": 4},
    "deepseek_v2": MULTI_HEAD_LATENT,
    "deepseek_v3": MULTI_HEAD_LATENT,
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1},
    "gemma3n_text": {
        "intermediate_size": [48, 48],
        "layer_types": ["sliding_attention", "full_attention"],
        "num_kv_shared_layers": 0,
        "activation_sparsity_pattern": [0.0, 0.0],
    },
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1, "state_size": 8},
    "recurrent_gemma": {"num_hidden_layers": 3, "attention_window_size": 8},
    "xlnet": {"d_head": 8},
    **{
        name: {"is_decoder": True, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
        for name in ("camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl")
    },
    **{
        name: {"is_decoder": True}
        for name in (
            "bert-generation",
            "big_bird",
            "electra",
            "ernie",
            "megatron-bert",
            "rembert",
            "roc_bert",
            "roformer",
        )
    },
    "bigbird_pegasus": {"attention_type": "original_full"},
    "reformer": {
        "is_decoder": True,
        "attn_layers": ["local", "local"],
        "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [16, 16],
        "attention_head_size": 8,
    },
    "xlm": {"causal": True},
    "codegen": {"rotary_dim": 4},
    "diffllama": {"num_key_value_heads": 2},
    "gptj": {"rotary_dim": 4},
    **dict.fromkeys(("deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "sarvam_mla", "youtu"), MULTI_HEAD_LATENT),
    **dict.fromkeys(("dots3_note", "dots3_note_text"), MULTI_HEAD_LATENT),
    # of which the fourth attends
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), {"num_hidden_layers": 4}),
    "xmod": {"is_decoder": True, "languages": ["en_XX"], "default_language": "en_XX", "pad_token_id": 1},
}
FULL = Adversary("full", "forget", **tiny.ATTACK)
LORA = Adversary("lora", "forget", lora_r=2, **tiny.ATTACK)


RESULTS = ("trained", "refused", "failed", "not built")


class Outcome(NamedTuple):
    """What came of a class: `"trained"`, `"refused"` in a sentence, `"not built"` here, or `"failed"`; and why."""

    result: str
    why: str = ""


def tiny_config(model_type: str) -> PretrainedConfig:
    kind = CONFIG_MAPPING[model_type]
    return kind(**{**_small_fields(kind()), **OVERRIDES.get(model_type, {})})


def _small_fields(config: PretrainedConfig) -> dict:
    fields = {name: SMALL[name] for name, value in config.to_dict().items() if name in SMALL and value is not None}
    for name in config.sub_configs or {}:
        part = getattr(config, name, None)
        if isinstance(part, PretrainedConfig):
            fields[name] = type(part)(**_small_fields(part))
    return fields


def tiny_model(model_type: str, **fields) -> PreTrainedModel:
    """A model in float32 with random weights, far enough from each other that a mistake shows."""
    config = tiny_config(model_type)
    for name, value in fields.items():
        setattr(config, name, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).float().eval()


def outcome(model_type: str) -> Outcome:
    """Builds a model of the class, trains it by both trainers, and compares."""
    try:
        model = tiny_model(model_type)
    except Exception as error:  # whatever keeps the class from being built is the reason that is told
        return Outcome("not built", _said(error))
    if model.num_parameters() > MOST_PARAMETERS:
        return Outcome("not built", f"{model.num_parameters()} parameters with the fields that are known here")
    try:
        outputs_of(model)
        with tempfile.TemporaryDirectory() as folder:
            check(model, Path(folder))
    except ValueError as error:
        return Outcome("refused", _said(error)) if _is_ours(error) else Outcome("failed", _said(error))
    except Exception as error:  # the table tells of it
        return Outcome("failed", _said(error))
    return Outcome("trained")


def check(model: PreTrainedModel, folder: Path) -> None:
    """Raises `AssertionError` where a step moves weights at learning rate 0, padding changes a number, or a file is another model."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for train in (train_tar, train_random_mapping):
        train(model, folder)
        after = model.state_dict()
        assert after.keys() == before.keys(), f"{train.__name__} changes names"
        moved = [name for name in before if not torch.equal(after[name], before[name])]
        assert not moved, f"{train.__name__} at learning rate 0 moves {moved[0]}"
    model.eval()
    check_padding(model)
    check_reload(model, folder)


def train_tar(model: PreTrainedModel, folder: Path) -> None:
    """One step with a full and a LoRA adversary."""
    settings = {"max_steps": 1, "learning_rate": 0.0, "adversaries_per_step": 2}
    trainer = tiny.make_trainer(folder, model, adversaries=[FULL, LORA], **settings)
    trainer.args.seed = next(seed for seed in range(99) if _draws_both(trainer, seed))
    trainer.train()


def _draws_both(trainer, seed: int) -> bool:
    trainer.args.seed = seed
    return {adversary.name for adversary in trainer.sample_adversaries()} == {"full", "lora"}


def train_random_mapping(model: PreTrainedModel, folder: Path) -> None:
    rows = tiny.tokenised()
    RandomMappingTrainer(
        model,
        RandomMappingConfig(str(folder), **{**tiny.TRAINER, "max_steps": 1, "learning_rate": 0.0}),
        train_dataset=Dataset.from_list(rows["retain"]),
        forget_dataset=Dataset.from_list(rows["forget"]),
        processing_class=tiny.tokenizer(),
    ).train()


def check_padding(model: PreTrainedModel) -> None:
    """Logits of a row that is padded on the right, and likelihoods of prompts of different lengths, against each alone."""
    ids, pad = torch.tensor([[7, 8, 9, 10]]), 0
    mask = torch.ones_like(ids)
    with torch.no_grad():
        alone = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        more = torch.nn.functional.pad(torch.cat([ids, ids]), (0, 3), value=pad)
        padded = model(input_ids=more, attention_mask=(more != pad).long(), use_cache=False).logits[:1, :4]
    assert _alike(padded, alone), "padding changes logits"
    pairs = [("w1", " w2 w3"), ("w4 w5 w6 w7 w8", " w9"), ("w3 w2 w1", " w4 w5 w6")]
    together = log_likelihoods(model, tiny.tokenizer(), pairs)
    one_by_one = torch.cat([log_likelihoods(model, tiny.tokenizer(), [pair]) for pair in pairs])
    assert _alike(together, one_by_one), "padding changes likelihoods"


def check_reload(model: PreTrainedModel, folder: Path) -> None:
    """A model with other weights is saved, and loaded as each attack does."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.01 * torch.randn_like(p))
        ids = torch.tensor([[7, 8, 9, 10]])
        model.save_pretrained(folder / "saved")
        expected = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        found = load(str(folder / "saved"))(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    assert _alike(found, expected), "a reloaded model gives other logits"


def _alike(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """To 1e-4 of the largest value: float32 in another order of sums."""
    return bool((found - expected).abs().max() <= 1e-4 * expected.abs().max())


def _is_ours(error: ValueError) -> bool:
    """Tells whether this package said so, and no library that it calls."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return at is not None and "/trl_tar/" in at.tb_frame.f_code.co_filename


def _said(error: BaseException) -> str:
    text = (
        re.sub(r"\S*/(saved\b)", r"'\1", " ".join(str(error).split())) or type(error).__name__
    )  # whatever folder that was in
    return (text if isinstance(error, ValueError | AssertionError) else f"{type(error).__name__}: {text}")[:240]


def outcomes(model_types: Iterable[str]) -> Iterator[tuple[str, Outcome]]:
    """Each in a process of its own, which a class cannot leave changed, or outlive its time in."""
    for model_type in model_types:
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            _limited(model_type, writer)
        os.close(writer)
        with open(reader, "rb") as pipe:
            said = pipe.read()
        os.waitpid(child, 0)
        yield model_type, Outcome(*json.loads(said)) if said else Outcome("not built", f"more than {SECONDS} s")


def _limited(model_type: str, writer: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        os.dup2(nowhere.fileno(), 2)
        os.write(writer, json.dumps(outcome(model_type)).encode())
    os._exit(0)


def read_table() -> tuple[dict[str, Outcome], str]:
    """The table in the repository, model type → outcome, and the version of transformers that it was made with."""
    text = TABLE.read_text(encoding="utf-8")
    rows = [line.strip("| \n").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    table = {row[0].strip("`"): Outcome(row[2].strip(" |"), " | ".join(row[3:])) for row in rows}
    return table, re.findall(r"with transformers ([0-9.]+[0-9a-z])", text)[0]


def write_table(table: dict[str, Outcome]) -> None:
    counts = {result: sum(each.result == result for each in table.values()) for result in RESULTS}
    lines = [
        "# Causal language models of transformers",
        "",
        f"What came of a tiny model of each class with transformers {version()}: "
        + ", ".join(f"{count} {result}" for result, count in counts.items())
        + ". A trained one was stepped by both trainers, with a full and a LoRA adversary, and stayed bitwise the same at learning "
        "rate 0; padding changed neither its logits nor its likelihoods, and its file is the same model. Made by `python -m "
        "support.architectures` in `tests`.",
        "",
        "| model type | class | result | why |",
        "|---|---|---|---|",
    ]
    for model_type, found in sorted(table.items()):
        name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
        lines.append(f"| `{model_type}` | {name} | {found.result} | {found.why.replace('|', '/')} |")
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def version() -> str:
    return importlib.metadata.version("transformers")


def main(model_types: list[str]) -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    table = read_table()[0] if model_types and TABLE.exists() else {}
    for model_type, found in outcomes(model_types or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        print(model_type, *found, flush=True)
        table[model_type] = found
        write_table(table)


if __name__ == "__main__":
    main(sys.argv[1:])
