"""A random BERT of a few kilobytes with a tokenizer of its own, as a model folder: quick to export."""

import json
from pathlib import Path

WORDS = ("the", "a", "cat", "dog", "sat", "on", "mat", "and", "looks", "out", "of", "window", "hello", "to", "met")
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789.,!?%:/()"


def write_tokenizer(folder: Path) -> int:
    """Write a WordPiece tokenizer; returns the size of its vocabulary."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *ALPHABET, *(f"##{letter}" for letter in ALPHABET), *WORDS]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106 - no password
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    facts = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 64,
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))
    return len(vocabulary)


def write_model(folder: Path, **config: int) -> Path:
    """Write a BertModel with random weights, the same in every run, and its tokenizer."""
    import torch
    from transformers import BertConfig, BertModel

    size = write_tokenizer(folder)
    torch.manual_seed(1)
    settings = {
        "vocab_size": size,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
    } | config
    BertModel(BertConfig(**settings)).save_pretrained(folder, safe_serialization=True)
    return folder


def write_pooling(folder: Path, mode: str, *, normalize: bool) -> None:
    """Write sentence-transformers' files as its version 3 does."""
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    if normalize:
        modules.append({"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"})
    (folder / "modules.json").write_text(json.dumps(modules))
    names = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    settings = {f"pooling_mode_{name}": name in {f"{mode}_token", f"{mode}_tokens"} for name in names}
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))
