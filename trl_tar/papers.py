"""The papers that model cards cite."""

TAR_PAPER = {
    "title": "Tamper-Resistant Safeguards for Open-Weight LLMs",
    "id": "2408.00761",
    # docstyle-ignore
    "citation": """\
@inproceedings{tamirisa2025tamperresistant,
    title        = {Tamper-Resistant Safeguards for Open-Weight {LLM}s},
    author       = {Rishub Tamirisa and Bhrugu Bharathi and Long Phan and others},
    year         = 2025,
    booktitle    = {The Thirteenth International Conference on Learning Representations},
}""",
}
