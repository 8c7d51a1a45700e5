"""Random models of a few kilobytes with tokenizers of their own, as model folders: quick to export."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORDS = ("the", "a", "cat", "dog", "sat", "on", "mat", "and", "looks", "out", "of", "window", "hello", "to", "met")
INPUTS = ("input_ids", "token_type_ids", "attention_mask")
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Bert": SMALL | {"max_position_embeddings": 64},
    "DistilBert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64},
    "Roberta": SMALL | {"max_position_embeddings": 66, "pad_token_id": 0, "type_vocab_size": 1},
    "XLMRoberta": SMALL | {"max_position_embeddings": 66, "pad_token_id": 0, "type_vocab_size": 1},
    "Camembert": SMALL | {"max_position_embeddings": 66, "pad_token_id": 0, "type_vocab_size": 1},
    "Albert": SMALL | {"max_position_embeddings": 64, "embedding_size": 16},
    "Electra": SMALL | {"max_position_embeddings": 64, "embedding_size": 16},
    "MPNet": SMALL | {"max_position_embeddings": 66, "pad_token_id": 0},
    "DebertaV2": SMALL
    | {
        "max_position_embeddings": 64,
        "type_vocab_size": 0,
        "relative_attention": True,
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
    },
}
"""Prefix of the model classes to their config; every one is declared in export/architectures.py."""
READ_PAIRS = ("Bert", "Albert", "Electra")
"""Those that read token_type_ids."""
HEADS = {
    "fill-mask": "ForMaskedLM",
    "text-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "question-answering": "ForQuestionAnswering",
    "multiple-choice": "ForMultipleChoice",
}
LABELS = {
    "text-classification": ("bad", "fair", "good"),
    "token-classification": ("O", "B-PER", "I-PER", "B-LOC", "I-LOC"),
}
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789.,!?%:/()"


def write_tokenizer(folder: Path, inputs: tuple[str, ...] = INPUTS) -> int:
    """Write a WordPiece tokenizer; returns the size of its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *ALPHABET, *(f"##{letter}" for letter in ALPHABET), *WORDS]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106 - no password
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    _save(tokenizer, folder, inputs)
    return len(vocabulary)


def write_unigram(folder: Path, inputs: tuple[str, ...] = INPUTS) -> int:
    """Write a tokenizer as SentencePiece makes them, which marks where words start and not which pieces go on."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [(token, 0.0) for token in special]
    pieces += [(f"{mark}{letter}", -8.0) for mark in ("", "\u2581") for letter in ALPHABET] + [("\u2581", -7.0)]
    pieces += [(f"{mark}{word}", -4.0) for mark in ("", "\u2581") for word in WORDS if len(word) > 1]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=1))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    _save(tokenizer, folder, inputs)
    return len(pieces)


def vocabulary_size(folder: Path) -> int:
    """How many tokens a model folder's tokenizer has."""
    from tokenizers import Tokenizer

    return int(Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size())


def _save(tokenizer: Any, folder: Path, inputs: tuple[str, ...]) -> None:
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
        "model_input_names": list(inputs),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))


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


def write_sentence_model(folder: Path) -> Path:
    """A small model in place of all-MiniLM-L6-v2, with as many positions."""
    write_model(folder, max_position_embeddings=512)
    write_pooling(folder, "mean", normalize=True)
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


def write_head(
    folder: Path, task: str, architecture: str, tokenizer: Callable[..., int] = write_tokenizer, **changes: Any
) -> Path:
    """Write a model with random weights and a task's head."""
    import torch
    import transformers

    pairs = architecture in READ_PAIRS
    size = tokenizer(folder, INPUTS if pairs else ("input_ids", "attention_mask"))
    labels = LABELS.get(task)
    settings = ARCHITECTURES[architecture] | {"vocab_size": size, "initializer_range": 0.3}
    if labels:
        settings |= {
            "id2label": dict(enumerate(labels)),
            "label2id": {name: index for index, name in enumerate(labels)},
        }
    model_class = getattr(transformers, architecture + HEADS[task])
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = model_class(model_class.config_class(**settings | changes))
        # Biases start at zero, where one that is lost would not be missed.
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(folder)
    return folder


def write_sentencepiece(folder: Path, inputs: tuple[str, ...]) -> int:  # noqa: ARG001
    """Write a tokenizer as MarianMT's are: a SentencePiece model that reads, one that writes, and one vocabulary."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    corpora = {
        "source": [f"the {a} sat on the {b}, and looks out." for a in WORDS for b in WORDS],
        "target": [f"die {a} sitzt auf der Stra\u00dfe mit {b}." for a in WORDS for b in WORDS],
    }
    pieces: dict[str, None] = {"<pad>": None, "<unk>": None, ">>deu<<": None, "</s>": None}
    for name, lines in corpora.items():
        (folder / f"{name}.txt").write_text("\n".join(lines))
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / f"{name}.txt"),
            model_prefix=str(folder / name),
            vocab_size=60,
            character_coverage=1.0,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        (folder / f"{name}.txt").unlink()
        (folder / f"{name}.vocab").unlink()
        (folder / f"{name}.model").rename(folder / f"{name}.spm")
        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{name}.spm"))
        pieces |= {model.id_to_piece(place): None for place in range(3, model.get_piece_size())}
    (folder / "vocab.json").write_text(json.dumps({piece: place for place, piece in enumerate(pieces)}))
    facts = {"tokenizer_class": "MarianTokenizer", "model_max_length": 64, "source_lang": "eng", "target_lang": "deu"}
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))
    return len(pieces)


def write_marian(folder: Path, tokenizer: Callable[..., int] = write_tokenizer, **generation: Any) -> Path:
    """Write a translation model with random weights, whose tied embedding is also its decoder's and its head."""
    import torch
    from transformers import MarianConfig, MarianMTModel

    size = tokenizer(folder, ("input_ids", "attention_mask"))
    torch.manual_seed(2)
    config = MarianConfig(
        vocab_size=size,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=64,
        init_std=0.4,
        scale_embedding=True,
        pad_token_id=0,
        eos_token_id=3,
        decoder_start_token_id=0,
        forced_eos_token_id=3,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MarianMTModel(config)
        model.final_logits_bias += torch.randn_like(model.final_logits_bias)
        settings = {"num_beams": 3, "max_length": 24, "bad_words_ids": [[0]]} | generation
        model.generation_config.update(**settings)
        model.save_pretrained(folder)
    return folder
