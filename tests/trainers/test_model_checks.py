"""Models, tokenizers and launchers that TAR cannot train with are refused by one sentence each."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from peft import IA3Config, LoHaConfig, LoraConfig, get_peft_model
from support import tiny
from support.architectures import tiny_model
from support.sentences import one_sentence

from trl_tar import Adversary, RandomMappingConfig, RandomMappingTrainer, TARConfig, TARTrainer


def test_tokenizer_larger_than_the_embedding_is_refused(make_trainer):
    model = tiny.gpt2()
    model.resize_token_embeddings(len(tiny.VOCABULARY) - 1)
    with pytest.raises(ValueError, match=r"29 tokens and the model embeds 28.*resize_token_embeddings") as error:
        make_trainer(model)
    one_sentence(error)


def test_tokenizer_without_pad_token_is_refused(make_trainer, monkeypatch):
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = None
    monkeypatch.setattr(tiny, "tokenizer", lambda: tokenizer)
    with pytest.raises(ValueError, match="no pad token") as error:
        make_trainer()
    one_sentence(error)


def test_quantised_model_is_refused(make_trainer):
    model = tiny.gpt2()
    model.is_quantized = True
    with pytest.raises(ValueError, match="quantised.*quantization_config") as error:
        make_trainer(model)
    one_sentence(error)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_weights_are_refused(make_trainer, dtype):
    with pytest.raises(ValueError, match="dtype=torch.float32") as error:
        make_trainer(tiny.gpt2(dtype=dtype))
    one_sentence(error)


def test_weights_that_are_not_there_are_refused(make_trainer):
    model = tiny.gpt2()
    model.transformer.ln_f = model.transformer.ln_f.to("meta")
    with pytest.raises(
        ValueError, match="'transformer.ln_f.weight' has no content.*cpu_ram_efficient_loading"
    ) as error:
        make_trainer(model)
    one_sentence(error)


def test_several_gpus_in_one_process_are_refused(make_trainer, monkeypatch):
    monkeypatch.setattr(TARConfig, "n_gpu", property(lambda self: 2))
    with pytest.raises(ValueError, match="torchrun|accelerate launch") as error:
        make_trainer()
    one_sentence(error)


@pytest.mark.parametrize(
    ("launcher", "message"),
    [("is_deepspeed_enabled", "DeepSpeed.*Use FSDP2 or DDP"), ("is_fsdp_enabled", "FSDP 1.*Set fsdp_version: 2")],
)
def test_launchers_that_would_spoil_the_attack_are_refused(make_trainer, monkeypatch, launcher, message):
    create = TARTrainer.create_accelerator_and_postprocess

    def launched(self):
        create(self)
        setattr(self, launcher, True)
        first = SimpleNamespace(fsdp_version=1)
        monkeypatch.setitem(AcceleratorState._shared_state, "fsdp_plugin", first)

    monkeypatch.setattr(TARTrainer, "create_accelerator_and_postprocess", launched)
    with pytest.raises(ValueError, match=message) as error:
        make_trainer()
    one_sentence(error)


def test_model_already_wrapped_with_peft_config_is_refused(make_trainer):
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    with pytest.raises(ValueError, match="peft_config"):
        make_trainer(get_peft_model(tiny.gpt2(), config), peft_config=config)


def test_the_pad_token_of_the_configuration_counts(tmp_path):
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = None
    sets = {name: Dataset.from_list(rows) for name, rows in tiny.tokenised().items()}
    TARTrainer(
        tiny.gpt2(),
        TARConfig(str(tmp_path), pad_token="<pad>", **tiny.SETTINGS),
        train_dataset=sets["retain"],
        tamper_resistance_dataset=sets["tamper_resistance"],
        adversaries=[Adversary("forget", "forget", **tiny.ATTACK)],
        adversary_datasets={"forget": sets["forget"]},
        processing_class=tokenizer,
    )


LORA = Adversary("l", "forget", lora_r=2, lora_target_modules=("q_proj",), **tiny.ATTACK)
OUTER = {"r": 2, "task_type": "CAUSAL_LM"}
NOT_MERGED = {
    "DoRA": (LoraConfig(target_modules=["q_proj"], use_dora=True, **OUTER), "DoRA scales rows"),
    "IA3": (IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM"), "IA3 is not added"),
    "tied embeddings": (LoraConfig(target_modules=["embed_tokens"], **OUTER), "share their weights with others"),
    "tied embeddings, as a whole": (
        LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"], **OUTER),
        "share their weights with others",
    ),
    "single tokens": (
        LoraConfig(target_modules=["q_proj"], trainable_token_indices=[3], **OUTER),
        "trainable_token_indices puts rows",
    ),
}


@pytest.mark.parametrize("case", NOT_MERGED)
def test_a_full_attack_on_an_adapter_that_is_not_added_is_refused(make_trainer, case):
    config, reason = NOT_MERGED[case]
    model = tiny.llama(tie_word_embeddings=True)
    with pytest.raises(ValueError, match=f"'forget' attacks all parameters.*{reason}") as error:
        make_trainer(get_peft_model(model, config))
    one_sentence(error)


def test_pefts_own_reason_is_told(make_trainer):
    outer = LoHaConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(tiny.llama(), outer)
    before = [name for name, _ in model.named_parameters()]
    with pytest.raises(ValueError, match="Cannot combine adapters.*or attack all parameters") as error:
        make_trainer(model, adversaries=[LORA])
    one_sentence(error)
    assert [name for name, _ in model.named_parameters()] == before


def test_an_adapter_named_as_the_attackers_is_kept(make_trainer):
    model = get_peft_model(tiny.llama(), LoraConfig(target_modules=["q_proj"], **OUTER), adapter_name="attack")
    names = [name for name, _ in model.named_parameters()]
    make_trainer(model, adversaries=[LORA], max_steps=1).train()
    assert [name for name, _ in model.named_parameters()] == names
    assert any(".attack." in name for name in names)


def test_an_adapter_that_nobody_could_load_is_refused_before_it_is_trained(make_trainer):
    with pytest.raises(ValueError, match="task_type=None.*Give task_type='CAUSAL_LM'") as error:
        make_trainer(tiny.llama(), peft_config=LoraConfig(target_modules=["q_proj"]), adversaries=[LORA])
    one_sentence(error)


def random_mapping(tmp_path, model, **arguments) -> RandomMappingTrainer:
    rows = {name: Dataset.from_list(rows) for name, rows in tiny.tokenised().items()}
    arguments = {"train_dataset": rows["retain"], "forget_dataset": rows["forget"], **arguments}
    args = RandomMappingConfig(str(tmp_path), **tiny.TRAINER)
    return RandomMappingTrainer(model, args, processing_class=tiny.tokenizer(), **arguments)


def test_hidden_states_of_several_streams_are_refused_where_they_are_read(make_trainer, tmp_path):
    with pytest.raises(
        ValueError, match=r"Gemma3nForCausalLM has hidden states of shape \(4, B, T, 32\), and the anchor"
    ) as error:
        make_trainer(tiny_model("gemma3n_text"))
    assert "Set representation_weight=0" in one_sentence(error)
    make_trainer(tiny_model("gemma3n_text"), representation_weight=0.0, kl_weight=1.0, max_steps=1).train()
    with pytest.raises(
        ValueError, match=r"shape \(4, B, T, 32\), and random mapping reads one vector a token"
    ) as error:
        random_mapping(tmp_path, tiny_model("gemma3n_text"))
    one_sentence(error)


def test_random_mapping_refuses_hidden_states_of_two_widths(tmp_path):
    """As OPT-350M has them."""
    model = tiny_model("opt", word_embed_proj_dim=16, do_layer_norm_before=False)
    with pytest.raises(
        ValueError, match=r"shapes \(B, T, 32\) and \(B, T, 16\), and random mapping reads states of one"
    ) as error:
        random_mapping(tmp_path, model)
    one_sentence(error)


@pytest.mark.parametrize("model_type", ["bert", "cpmant"])
def test_encoders_are_refused(make_trainer, tmp_path, model_type):
    model = tiny_model(model_type, is_decoder=False)
    for make in (make_trainer, lambda model: random_mapping(tmp_path, model)):
        with pytest.raises(ValueError, match="reads the tokens that it is to predict") as error:
            make(model)
        one_sentence(error)


def test_tokenizer_without_end_of_text_is_refused(make_trainer, tmp_path, monkeypatch):
    tokenizer = tiny.tokenizer()
    tokenizer.eos_token = None
    monkeypatch.setattr(tiny, "tokenizer", lambda: tokenizer)
    for make in (make_trainer, lambda: random_mapping(tmp_path, tiny.gpt2())):
        with pytest.raises(ValueError, match="no token for the end of text.*Set tokenizer.eos_token") as error:
            make()
        one_sentence(error)


def test_a_lora_attack_leaves_the_kernels_of_mamba_alone(make_trainer):
    lora = Adversary("lora", "forget", lora_r=2, **tiny.ATTACK)
    model = tiny_model("falcon_h1")
    trainer = make_trainer(model, adversaries=[lora], max_steps=1, learning_rate=0.0)
    before = tiny.weights(model)
    trainer.train()
    assert all(torch.equal(value, before[name]) for name, value in tiny.weights(trainer.model).items())
    explicit = Adversary("lora", "forget", lora_r=2, lora_target_modules=("q_proj", "out_proj"), **tiny.ATTACK)
    with pytest.raises(ValueError, match="'out_proj' matches no module of the model that takes an adapter") as error:
        make_trainer(model, adversaries=[explicit])
    one_sentence(error)
