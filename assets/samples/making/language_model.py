"""Train and save `docstring_lm`: a small Llama-style model of standard library docstrings."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from making import common, corpus

SEED = 20240
BOS, EOS, PAD = "<s>", "</s>", "<pad>"
VOCABULARY = 2048
CONTEXT = 256
BATCH = 16
STEPS = 2000
WARMUP = 100
PEAK_RATE = 3e-3
FINAL_SHARE = 0.05
WEIGHT_DECAY = 0.1
DROPOUT = 0.1
CLIP = 1.0
CALIBRATION_BYTES = 100_000


def build(folder: Path) -> None:
    """Train tokenizer and model and write every file of the sample into `folder`."""
    common.make_deterministic(SEED)
    texts = corpus.collect()
    calibration = corpus.excerpt(texts.training, CALIBRATION_BYTES, SEED)
    _write_text(folder / "calibration.txt", calibration)
    _write_text(folder / "evaluation.txt", texts.evaluation)
    tokenizer = _train_tokenizer(texts.training)
    tokenizer.save_pretrained(folder)
    # Half of the stream parts docstrings with a blank line, half with the end token,
    # so that the model can read whole text files and also knows how to stop.
    stream = corpus.SEPARATOR.join(texts.training) + EOS + EOS.join(texts.training)
    tokens = _tokens(tokenizer, stream)
    evaluation = _tokens(tokenizer, (folder / "evaluation.txt").read_text(encoding="utf-8"))
    model = LlamaForCausalLM(_config(tokenizer))
    untrained = _perplexity(model, evaluation)
    started = time.monotonic()
    _train(model, tokens)
    minutes = (time.monotonic() - started) / 60
    trained = _perplexity(model, evaluation)
    _save(model, folder)
    metrics = {
        **measure(folder),
        "perplexity_before_cast": trained,
        "perplexity_untrained": untrained,
        "perplexity_unigram": _unigram_perplexity(tokens, evaluation),
        "evaluation_tokens": len(evaluation),
        "training_tokens": len(tokens) // 2,
        "tokens_seen": STEPS * BATCH * (CONTEXT - 1),
        "training_steps": STEPS,
        "training_minutes": round(minutes, 1),
        "parameters": model.num_parameters(),
        "held_out_modules": sorted(corpus.HELD_OUT),
        "seed": SEED,
        "versions": common.versions("torch", "transformers", "tokenizers", "safetensors"),
    }
    common.write_metrics(folder, metrics)


def measure(folder: Path) -> dict[str, float]:
    """Recompute the held-out perplexity from the saved folder alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    text = (folder / "evaluation.txt").read_text(encoding="utf-8")
    tokens = _tokens(tokenizer, text)
    in_bfloat16 = _perplexity(model, tokens)
    in_float32 = _perplexity(model.float(), tokens)
    return {
        "perplexity": in_bfloat16,
        "perplexity_float32_arithmetic": in_float32,
        "bits_per_byte": math.log2(in_bfloat16) * len(tokens) / len(text.encode("utf-8")),
    }


def _write_text(path: Path, docstrings: list[str]) -> None:
    path.write_text(corpus.SEPARATOR.join(docstrings) + "\n", encoding="utf-8", newline="\n")


def _train_tokenizer(docstrings: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that puts the start token before every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(docstrings, trainer)
    template = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    tokenizer.post_processor = template
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def _tokens(tokenizer: PreTrainedTokenizerFast, text: str) -> torch.Tensor:
    """Token ids of a whole text, without a start token."""
    return torch.tensor(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)


def _config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _train(model: LlamaForCausalLM, tokens: torch.Tensor) -> None:
    """Train on windows drawn at random from the token stream, each led by the start token."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    gains = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": gains, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _rate)
    hooks = _add_dropout(model)
    started = time.monotonic()
    model.train()
    for step in range(1, STEPS + 1):
        starts = torch.randint(0, len(tokens) - CONTEXT, (BATCH, 1))
        loss = _loss(model, tokens[starts + torch.arange(CONTEXT - 1)])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == STEPS:
            seconds = time.monotonic() - started
            print(f"lm: step {step}/{STEPS}, loss {loss.item():.3f}, {seconds:.0f} s", flush=True)
    for hook in hooks:
        hook.remove()
    model.eval()


def _rate(step: int) -> float:
    """Linear warm-up, then a cosine down to a small share of the peak rate."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    progress = (step - WARMUP) / max(1, STEPS - WARMUP)
    return FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * progress))


def _add_dropout(model: LlamaForCausalLM) -> list[torch.utils.hooks.RemovableHandle]:
    """Drop activations where a block adds to the residual stream; Llama has no such setting."""

    def drop(module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        return functional.dropout(output, DROPOUT, module.training)

    places = ("embed_tokens", "o_proj", "down_proj")
    return [m.register_forward_hook(drop) for name, m in model.named_modules() if name.endswith(places)]


def _loss(model: LlamaForCausalLM, windows: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """Cross entropy of every token of each window, the start token put in front."""
    start = torch.full((len(windows), 1), model.config.bos_token_id)
    logits = model(input_ids=torch.cat([start, windows[:, :-1]], dim=1), use_cache=False).logits
    return functional.cross_entropy(logits.float().flatten(0, 1), windows.flatten(), reduction=reduction)


def _perplexity(model: LlamaForCausalLM, tokens: torch.Tensor) -> float:
    """Perplexity over consecutive windows that together cover every token once."""
    model.eval()
    with torch.inference_mode():
        total = sum(_loss(model, part[None], "sum").item() for part in tokens.split(CONTEXT - 1))
    return math.exp(total / len(tokens))


def _unigram_perplexity(training: torch.Tensor, evaluation: torch.Tensor) -> float:
    """What token frequencies alone reach, one added to each count."""
    counts = torch.bincount(training, minlength=VOCABULARY).double() + 1
    return math.exp(-(counts / counts.sum()).log()[evaluation].mean().item())


def _save(model: LlamaForCausalLM, folder: Path) -> None:
    """Save as a Hugging Face folder in bfloat16."""
    config = model.config
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        max_new_tokens=64,
    )
    model.to(torch.bfloat16).save_pretrained(folder)
