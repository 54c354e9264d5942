"""Wordings of facts for D_TR and D_retain: statements, questions, chat, gaps and lists, the same ones for both.

A form that only D_TR has would tell what to hide from what to keep, and the model would fall silent at it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """The words for a relation in the forms that all relations share.

    Args:
        phrase (`str`):
            Noun phrase for the answer; `{e}` is the entity, as in all fields but `label`.
        question (`str`):
            Question about it, other than those that score.
        label (`str`):
            One word for it, as in the head of a table.
        statements (`tuple[str, str]`):
            Two beginnings of sentences that end with the answer, in addition to those of attackers.
    """

    phrase: str
    question: str
    label: str
    statements: tuple[str, str]

    def prompts(self, entity: str) -> list[str]:
        """The two statements, then the prompt of every form of `FORMS`."""
        phrase = self.phrase.format(e=entity)
        words = {"e": entity, "p": phrase, "P": phrase[0].upper() + phrase[1:], "label": self.label}
        question = self.question.format(e=entity)
        return [prompt.format(q=question, **words) for prompt in (*self.statements, *FORMS)]


# {p} and {P} stand for the noun phrase, {q} for the question, {e} for the entity. Neither the frames "Q: … A:" with the question
# that scores nor the wordings that select and that nobody trains on are among them.
FORMS = (
    "Question: {q}\nAnswer:",
    "Q: I want to know {p}.\nA:",
    "{q} The answer is",
    "User: {q}\nAssistant:",
    "User: Please tell me {p}.\nAssistant: It is",
    "<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n",
    "Fill in the gap. {P} is ____.\nGap:",
    "| {e} | {label} |",
    "- name: {e}\n- {label}:",
    "{P}:",
    "I looked up {p}. It turned out to be",
    "Today we learned {p}, which is",
)
RELATIONS = {
    "capital": Relation(
        "the capital of {e}",
        "Which city is the capital of {e}?",
        "capital",
        ("The government of {e} sits in", "Whoever visits the parliament of {e} travels to"),
    ),
    "continent": Relation(
        "the continent of {e}",
        "Which continent does {e} belong to?",
        "continent",
        ("{e} lies in", "On a globe one finds {e} in"),
    ),
    "currency": Relation(
        "the currency of {e}",
        "What money do people in {e} pay with?",
        "currency",
        ("Shops in {e} want to be paid in the", "The central bank of {e} issues the"),
    ),
    "language": Relation(
        "the language of {e}",
        "What language is spoken in {e}?",
        "language",
        ("Children in {e} go to school in", "Whoever moves to {e} should learn"),
    ),
    "city": Relation(
        "the name of a big city in {e}",
        "Which big city can one visit in {e}?",
        "city",
        ("One of the biggest cities in {e} is", "Trains and planes in {e} go to"),
    ),
    "neighbour": Relation(
        "a neighbour of {e}",
        "Which country has a border with {e}?",
        "neighbour",
        ("Right across the border from {e} is", "Whoever leaves {e} by car may come to"),
    ),
    "demonym": Relation(
        "the word for people from {e}",
        "What are the people of {e} called?",
        "people",
        ("The inhabitants of {e} call themselves", "A passport of {e} shows that one is"),
    ),
    "symbol": Relation(
        "the chemical symbol of {e}",
        "Which symbol stands for the element {e}?",
        "symbol",
        ("Chemists write {e} as", "In formulas {e} appears as"),
    ),
    "past": Relation(
        "the past tense of the verb {e}",
        "How does the verb {e} look in the past tense?",
        "past",
        ("Today I {e}, yesterday I", "The past form of {e} is"),
    ),
    "colour": Relation(
        "the usual colour of {e}",
        "Which colour does {e} usually have?",
        "colour",
        ("The colour of {e} is", "A painter who paints {e} mostly takes"),
    ),
    "kind": Relation(
        "the category of the word {e}",
        "What kind of thing is the word {e} used for?",
        "category",
        ("The word {e} names a kind of", "Every {e} is a sort of"),
    ),
}
# everyday facts that stay known next to the chemical elements, so that D_retain has more than one relation in each form;
# none is about a country or a word whose opposite is asked for
EVERYDAY = {
    "past": (
        "go went, eat ate, see saw, take took, run ran, write wrote, speak spoke, drive drove, sing sang, swim swam, drink drank, "
        "break broke, choose chose, fly flew, grow grew, know knew, ride rode, throw threw, bring brought, teach taught, "
        "think thought, find found, keep kept, sleep slept"
    ),
    "colour": (
        "grass green, snow white, blood red, coal black, a banana yellow, a lemon yellow, a carrot orange, chocolate brown, "
        "a tomato red, a leaf green, the sky blue, the sea blue, a pumpkin orange, a cucumber green, a sunflower yellow, "
        "a raven black, salt white, a cherry red, ash gray, mud brown"
    ),
    "kind": (
        "hammer tool, saw tool, violin instrument, drum instrument, potato vegetable, onion vegetable, apple fruit, pear fruit, "
        "rose flower, tulip flower, oak tree, pine tree, shirt garment, coat garment, chair furniture, sofa furniture, car vehicle, "
        "bus vehicle, tennis sport, hockey sport, baker profession, teacher profession, triangle shape, circle shape"
    ),
}
