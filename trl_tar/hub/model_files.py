"""The files of a published model: which of them a library reads, and whether they are those that the report is about."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..fingerprints import WEIGHTS, file_sha256
from ..models.json_files import as_object, content_of, fields_of
from ..models.untrusted_config import shards
from ..report.report import FILE_NAME, MAX_BYTES, Report


# what the libraries save next to weights; nothing else of a folder is sent
MODEL_FILES = (
    WEIGHTS,
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.json",
    "*.jinja",
    "additional_chat_templates/*.jinja",
)
# weights of an older model in formats that a library would load in addition to ours, or in their place, and a trainer's pickle
OLDER_FILES = (
    "pytorch_model*.bin",
    "pytorch_model.bin.index.json",
    "adapter_model.bin",
    "tf_model.h5",
    "flax_model.msgpack",
    "training_args.bin",
)


def model_files(folder: Path) -> list[Path]:
    """Lists weights, configuration and tokenizer in a folder, which are the files that a report binds."""
    files = {file for pattern in MODEL_FILES for file in folder.glob(pattern) if file.is_file()}
    return sorted(file for file in files if not file.name.startswith("."))


def check_model(folder: Path) -> None:
    """Raises `ValueError` if the folder has no weights in safetensors, or no tokenizer."""
    if not any(folder.glob(WEIGHTS)):
        raise ValueError(f"{str(folder)!r} holds no {WEIGHTS}. Save the model there with save_pretrained.")
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{str(folder)!r} holds no tokenizer.json. Save the tokenizer there, a fast one.")


def adapter_base(folder: Path) -> str | None:
    """Hub id or folder of the base of the adapter in a folder; `None` for a whole model."""
    file = folder / "adapter_config.json"
    return as_object(file).get("base_model_name_or_path") if file.is_file() else None


# of the report, and of the training's own
OUR_FILES = {FILE_NAME, "training.json", "run.json", "log_history.json", "comparison.json", "trainer_state.json"}
# what is taken for a model's own, and refused where the report says nothing of it
LOADABLE = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".msgpack", ".h5"}  # as weights
BESIDE = {".json", ".jinja", ".model", ".py"}  # what a library reads next to them
# templates are text, which transformers renders in a sandbox; the last two are what a tokenizer.json was made of
READ = {".safetensors", ".json", ".jinja", ".txt", ".model"}
# files of the trainer itself, which no library loads as weights
TRAINER = re.compile(r"training_args\.bin|optimizer\.(pt|bin)|(scheduler|scaler)\.pt|rng_state(_\d+)?\.pth")
TEMPLATES = "additional_chat_templates"  # the only folder within a model's that transformers reads: default.jinja first
UNREAD = {"figures", "examples", "runs", "logs", "wandb"}  # folders, in addition to hidden ones and checkpoints
LONGEST_NAME = 255  # bytes, the limit of the common file systems
SHA256 = re.compile("[0-9a-f]{64}")


def files_in(folder: Path) -> list[str]:
    """Lists the paths of all files in a folder, as the Hub does for a repository, except those that no library reads."""
    found = set()
    for top in (folder, folder / TEMPLATES):  # which may be a link, and links are not followed
        for root, folders, names in os.walk(top):
            at = Path(root).relative_to(folder)
            folders[:] = [name for name in folders if not _is_unread(at / name / "x")]
            found |= {(at / name).as_posix() for name in names}
    return sorted(found)


def _is_unread(path: PurePosixPath) -> bool:
    """Returns whether the path lies in a folder that no library reads when it loads a model."""
    first = path.parts[0]
    return len(path.parts) > 1 and (first.startswith((".", "checkpoint-")) or first in UNREAD)


def about_the_file_list(content: Mapping[str, Any]) -> Iterator[str]:
    """Yields a problem for each name that is unsafe to look up or download, and for each file that a model needs."""
    files = content.get("files")
    if not isinstance(files, dict) or not any(str(name).endswith(".safetensors") for name in files):
        yield "The report names no file of weights, so it is bound to no model. Publish it with trl-tar push."
        return
    if not {"config.json", "adapter_config.json"} & set(files):
        yield "The report names no configuration (config.json), so its weights can be read as another model."
    if "tokenizer.json" not in files:
        yield "The report names no tokenizer (tokenizer.json), so its numbers can be of another one."
    for name, described in files.items():
        path = PurePosixPath(name)
        template = path.parts[:-1] == (TEMPLATES,) and path.suffix == ".jinja"
        if not (template or path.name == name) or "\\" in name or path.name.startswith("."):
            yield f"The report lists the file {name!r}, which is not in the model's own folder."
        elif not name.isprintable() or len(name.encode()) > LONGEST_NAME:
            yield f"The report lists the file {name[:40]!r}, which is no name for one."
        elif name in OUR_FILES:
            yield f"The report lists the file {name!r}, which is no part of a model."
        elif path.suffix not in READ:
            yield f"The report lists the file {name!r}. Only {', '.join(sorted(READ))} are read."
        elif (
            not isinstance(described, dict)
            or type(described.get("size")) is not int
            or not SHA256.fullmatch(str(described.get("sha256")))
        ):
            yield f"The report lists {name!r} without size and SHA-256."
        elif path.suffix != ".safetensors" and described["size"] > MAX_BYTES:
            yield f"The report lists {name!r} with {described['size'] / 2**20:.0f} MiB, more than the {MAX_BYTES // 2**20} of any."


def about_the_files(folder: Path, report: Report, there: Sequence[str]) -> Iterator[str]:
    """Yields a problem for each file that is not as the report says; `there` are the paths of all files."""
    for name, described in report.files.items():
        file = folder / name
        what = "the weights" if name.endswith(".safetensors") else "the tokenizer" if "token" in name else "this file"
        if not file.is_file():
            yield f"{name!r} is missing."
        elif file.stat().st_size != described["size"]:
            change = "cut short" if file.stat().st_size < described["size"] else "added to, or exchanged"
            yield f"{name!r} has {file.stat().st_size} bytes, and the report says {described['size']}: {what} were {change}."
        elif (found := file_sha256(file)) != described["sha256"]:
            yield (
                f"{name!r} has the SHA-256 {found[:12]}…, and the report says {described['sha256'][:12]}…: {what} were changed, or "
                "the report is of another model."
            )
        elif name.endswith(".index.json"):
            yield from _about_the_shards(file, report)
    beside = set(there) - set(report.files)
    for name in sorted(weights_beside(beside)):
        yield f"{name!r} holds weights that the report says nothing of, and a library may load them. Remove it."
    for name in sorted(others_beside(beside)):
        yield f"{name!r} is beside the model, a library may read it, and the report says nothing of it. Remove it."


def _about_the_shards(index: Path, report: Report) -> Iterator[str]:
    other = sorted(name for name in shards(index) if name not in report.files or not name.endswith(".safetensors"))
    if other:
        yield f"{index.name!r} reads weights from {other[0]!r}, which is no safetensors file of the report."


def weights_beside(names: Iterable[str]) -> set[str]:
    """Returns those of the files, which belong to no report, that a library may load as weights."""
    return {
        name
        for name in names
        if (path := PurePosixPath(name)).suffix in LOADABLE and not (_is_unread(path) or TRAINER.fullmatch(path.name))
    }


def others_beside(names: Iterable[str]) -> set[str]:
    """Returns those of the files, which belong to no report, that a library may read in addition to the weights."""
    return {
        name
        for name in set(names) - OUR_FILES
        if not _is_unread(path := PurePosixPath(name))
        and (
            path.suffix == ".py"  # a module of any folder can be imported
            or path.parts[:-1] in ((), (TEMPLATES,))
            and (path.suffix in BESIDE or name in {"vocab.txt", "merges.txt"})
        )
    }


def needs_code(folder: Path, report: Report) -> str | None:
    """Returns the name of a file that makes a library run code of the repository; `None` if there is none."""
    for name in report.files:
        if name.endswith(".json"):
            for field, value in fields_of(content_of(folder / name)):
                if field == "auto_map" and type(value) is not int:  # a number is that of a token
                    return name
    return None
