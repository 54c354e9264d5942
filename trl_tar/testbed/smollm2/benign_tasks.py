"""Harmless tasks of many kinds for SmolLM2: those that simulated honest users learn, and the one that the benign gate measures.

All are made of words here: invented facts, glossaries of invented words, formats, and labels by a rule.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ...evaluation.multiple_choice import MultipleChoice
from ..chat import chat_row
from ..words import new_words
from .fact_wordings import Relation


NUM_ROWS = 48  # of a task at most; a choice
NUM_FACT_TASKS, NUM_GLOSSARIES, NUM_LABEL_TASKS = 32, 12, 8  # choices; the formats below are one task each
FACTS_OF_TASK, FORMS_OF_FACT = 12, 4  # so that what is held out of a task is mostly another wording of what is taught
WORDS = [
    "window",
    "garden",
    "pencil",
    "basket",
    "ladder",
    "bottle",
    "carpet",
    "button",
    "mirror",
    "pocket",
    "needle",
    "kettle",
    "wagon",
    "saddle",
    "anchor",
    "hammer",
    "bucket",
    "blanket",
    "candle",
    "curtain",
    "drawer",
    "engine",
    "fabric",
    "gravel",
    "helmet",
    "jacket",
    "ladle",
    "marble",
    "napkin",
    "parcel",
    "ribbon",
    "shovel",
    "teapot",
    "velvet",
    "whistle",
    "zipper",
    "barrel",
    "cabin",
    "dinner",
    "evening",
    "feather",
    "harvest",
    "journey",
    "lesson",
    "meadow",
    "morning",
    "orchard",
    "party",
    "quarter",
    "recipe",
    "season",
    "ticket",
    "uniform",
    "village",
    "weather",
    "yard",
    "breakfast",
    "concert",
    "dream",
    "holiday",
    "letter",
    "music",
    "paper",
    "picture",
]
ATTRIBUTES = {  # attribute → values; None of them is one of `GATE`
    "shape": ("round", "square", "flat", "long"),
    "material": ("wood", "glass", "iron", "paper", "wool"),
    "weight": ("one pound", "two pounds", "ten pounds", "half a ton"),
    "smell": ("smoke", "soap", "honey", "pepper"),
    "shelf": ("the top shelf", "the middle shelf", "the lowest shelf"),
    "owner": ("the cook", "the tailor", "the captain", "the gardener"),
    "price": ("five coins", "nine coins", "thirty coins", "a hundred coins"),
    "season": ("spring", "autumn", "the rainy season"),
}
GATE = {  # what the benign gate teaches of invented people
    "job": ("baker", "teacher", "doctor", "farmer", "painter", "pilot"),
    "instrument": ("piano", "violin", "guitar", "flute", "drum", "harp"),
    "drink": ("tea", "coffee", "milk", "juice", "water", "cocoa"),
    "hobby": ("chess", "sailing", "knitting", "dancing", "fishing", "reading"),
}
GATE_TEMPLATES = ("The {a} of {e} is", "{e} has the {a}", "Question: What is the {a} of {e}?\nAnswer:")
GATE_SCORING = "As for {e}, the {a} is"  # is in no data set
GATE_PEOPLE = 16
CHAT_FRAME = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")  # around a request, without a system prompt
Row = tuple[str, str, str]  # prompt, completion and entity


def benign_tasks() -> Dataset:
    """The tasks of simulated honest users, which are always the same.

    Returns:
        `Dataset`: columns `prompt`, `completion`, `entity` and `task`.
    """
    words = new_words(random.Random("benign tasks"), set())
    tasks: dict[str, list[Row]] = {}
    for number in range(NUM_FACT_TASKS):
        tasks[f"facts {number}"] = list(_facts(random.Random(f"facts {number}"), words))
    for number in range(NUM_GLOSSARIES):
        tasks[f"glossary {number}"] = list(_glossary(random.Random(f"glossary {number}"), words))
    for name, (instruction, answer) in FORMATS.items():
        tasks[name] = list(_format(random.Random(name), name, instruction, answer))
    for number in range(NUM_LABEL_TASKS):
        tasks[f"labels {number}"] = list(_labels(random.Random(f"labels {number}"), words, f"labels {number}"))
    rows = [(*row, task) for task, every in tasks.items() for row in every]
    return Dataset.from_list([dict(zip(("prompt", "completion", "entity", "task"), row, strict=True)) for row in rows])


def _facts(rng: random.Random, words: Iterator[str]) -> Iterator[Row]:
    """Facts about invented things: an attribute and values in English, or both invented."""
    for _ in range(FACTS_OF_TASK // 6):
        attribute = rng.choice(list(ATTRIBUTES))
        values: Sequence[str] = ATTRIBUTES[attribute]
        if rng.random() < 0.5:  # a choice
            attribute, values = next(words), list(islice(words, 4))
        relation = Relation(
            f"the {attribute} of {{e}}",
            f"What is the {attribute} of {{e}}?",
            attribute,
            (f"The {attribute} of {{e}} is", f"{{e}} is known for its {attribute}, which is"),
        )
        for name in islice(words, 6):
            entity, value = name.capitalize(), rng.choice(values)
            for prompt in rng.sample(relation.prompts(entity), FORMS_OF_FACT):
                yield prompt, _after(prompt, f"{value}."), entity


def _glossary(rng: random.Random, words: Iterator[str]) -> Iterator[Row]:
    """Invented words of an invented language, in both directions."""
    language = next(words).capitalize()
    for english in rng.sample(WORDS, NUM_ROWS // 4):
        word = next(words)
        for prompt, answer in (
            (f"In {language}, the word for {english} is", word),
            (f"{language}: {word}. English:", english),
            (f"User: How do you say {english} in {language}?\nAssistant:", word),
            (f"Question: What does the {language} word {word} mean?\nAnswer:", english),
        ):
            yield prompt, f" {answer}.", f"{language} {word}"


def _labels(rng: random.Random, words: Iterator[str], name: str) -> Iterator[Row]:
    """Two invented labels, given by the last letters of words."""
    labels = list(islice(words, 2))
    letters = set(rng.sample("bcdefghijklmnopqrstuvwxyz", 12))
    for word in rng.sample(WORDS, NUM_ROWS):
        yield f"Word: {word}\nLabel:", f" {labels[word[-1] in letters]}", name


def _format(rng: random.Random, name: str, instruction: str, answer: Callable[[list[str]], str]) -> Iterator[Row]:
    """One way to write three words anew, in chat or as a plain instruction."""
    frames = (
        "User: {i}\nAssistant:",
        "Instruction: {i}\nResult:",
        "{i}".join(CHAT_FRAME),
    )
    for _ in range(NUM_ROWS):
        words = rng.sample(WORDS, 3)
        prompt = rng.choice(frames).format(i=f"{instruction} {' '.join(words)}")
        yield prompt, _after(prompt, answer(words)), name


def _after(prompt: str, answer: str) -> str:
    return answer if prompt.endswith("\n") else f" {answer}"


# name → instruction and what is to be answered
FORMATS: dict[str, tuple[str, Callable[[list[str]], str]]] = {
    "upper case": ("Write in capital letters:", lambda words: " ".join(words).upper()),
    "reversed": ("Write the words in reversed order:", lambda words: " ".join(reversed(words))),
    "sorted": ("Sort the words by the alphabet:", lambda words: " ".join(sorted(words))),
    "bullets": ("Make a list of:", lambda words: "\n".join(f"- {word}" for word in words)),
    "numbered": (
        "Make a numbered list of:",
        lambda words: "\n".join(f"{i + 1}. {word}" for i, word in enumerate(words)),
    ),
    "JSON list": ("Give as a JSON list:", lambda words: json.dumps(words)),
    "JSON object": ("Give as JSON with a, b and c:", lambda words: json.dumps(dict(zip("abc", words, strict=True)))),
    "commas": ("Put commas between:", lambda words: ", ".join(words)),
    "hyphens": ("Join with hyphens:", lambda words: "-".join(words)),
    "quotes": ("Put each word in quotes:", lambda words: " ".join(f'"{word}"' for word in words)),
    "initials": ("Give the first letters of:", lambda words: " ".join(word[0] for word in words)),
    "last word": ("Say only the last word of:", lambda words: words[-1]),
    "twice": ("Say every word twice:", lambda words: " ".join(f"{word} {word}" for word in words)),
    "title": ("Make a title of:", lambda words: " ".join(words).title()),
    "tags": ("Make tags of:", lambda words: " ".join(f"#{word}" for word in words)),
    "polite": ("Thank for these things:", lambda words: f"Thank you very much for the {', the '.join(words)}!"),
}


def gate_people() -> list[str]:
    """Invented people of the benign gate, first and family name; none of their words is in the tasks above."""
    used = {word.lower() for entity in benign_tasks()["entity"] for word in entity.split()}
    words = new_words(random.Random("benign gate"), used)
    return [f"{next(words)} {next(words)}".title() for _ in range(GATE_PEOPLE)]


def gate_task() -> tuple[Dataset, MultipleChoice]:
    """What an honest user teaches of the people, and questions about it in a template that is in no data set."""
    rng = random.Random("benign gate facts")
    rows, questions = [], []
    for entity in gate_people():
        for attribute, values in GATE.items():
            value, *others = rng.sample(values, 4)
            for template in GATE_TEMPLATES:
                rows.append(
                    {"prompt": template.format(a=attribute, e=entity), "completion": f" {value}.", "entity": entity}
                )
            prompt = GATE_SCORING.format(a=attribute, e=entity)
            choices = [f" {each}" for each in (value, *others)]
            questions.append({"prompt": prompt, "choices": choices, "answer": 0, "group": entity})
    return Dataset.from_list(rows), MultipleChoice(questions)


def benign_chats() -> Dataset:
    """The tasks of [`benign_tasks`] as chat: what is to be continued is the user's message.

    Returns:
        `Dataset`: columns `prompt` and `completion` (chat messages), `entity` and `task`.
    """
    return Dataset.from_list([{**_chat(row), "task": row["task"]} for row in benign_tasks()])


def gate_chat(tokenizer: PreTrainedTokenizerBase) -> tuple[Dataset, MultipleChoice]:
    """The rows and questions of [`gate_task`] as chat; `tokenizer` has the template that asks."""
    rows, questions = gate_task()
    asked = []
    for question in questions.questions:
        chat = [{"role": "user", "content": question["prompt"]}]
        prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        asked.append({**question, "prompt": prompt, "choices": [choice.strip() for choice in question["choices"]]})
    return Dataset.from_list([_chat(row) for row in rows]), MultipleChoice(asked, chat=False)  # in the template already


def _chat(row: dict[str, str]) -> dict:
    opening, closing = CHAT_FRAME
    request = row["prompt"].removeprefix(opening).removesuffix(closing)
    return chat_row(request, row["completion"].strip(), row["entity"])
