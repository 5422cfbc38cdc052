"""Writes the trained parts as a checkpoint folder of GLM-Image's layout: `python export.py --state DIR --out DIR`.

Weights are stored in half precision. `serving.json` and the model card are written by hand and left alone."""
import argparse
import json
import os

import torch
from safetensors.torch import save_file

import tokenizer
from config import AR, BYT5, CODEBOOK, DIT, END, START, VAE, VISION, VISION_VOCAB
from models.autoregressive import Writer
from models.glyph_encoder import GlyphEncoder
from models.transformer import Denoiser
from models.vae import Autoencoder
from models.vision import VisualTokeniser

TEMPERATURE, TOP_P = 0.3, 0.9


def load(state: str, name: str) -> dict:
    return torch.load(os.path.join(state, f"{name}.pt"), weights_only=True)


def write_json(out: str, name: str, value: dict) -> None:
    path = os.path.join(out, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def write_tensors(out: str, name: str, tensors: dict[str, torch.Tensor]) -> int:
    path = os.path.join(out, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    half = {key: tensor.detach().to(torch.float16).contiguous() for key, tensor in sorted(tensors.items())}
    if not all(torch.isfinite(tensor).all() for tensor in half.values()):
        raise ValueError(f"{name}: a weight does not fit half precision")
    save_file(half, path, metadata={"format": "pt"})
    os.chmod(path, 0o644)
    return sum(tensor.numel() for tensor in half.values())


def writer_config() -> dict:
    special = tokenizer.SPECIAL_ID
    return {
        "architectures": ["GlmImageForConditionalGeneration"], "dtype": "float16", "image_end_token_id": END, "image_start_token_id": START,
        "image_token_id": special["<|image|>"], "model_type": "glm_image", "tie_word_embeddings": False,
        "text_config": {
            "attention_bias": True, "attention_dropout": 0.0, "eos_token_id": END, "head_dim": AR["head_dim"], "hidden_act": "silu", "hidden_size": AR["hidden"],
            "initializer_range": 0.02, "intermediate_size": AR["mlp"], "max_position_embeddings": 131072, "model_type": "glm_image_text",
            "num_attention_heads": AR["heads"], "num_hidden_layers": AR["layers"], "num_key_value_heads": AR["kv_heads"], "pad_token_id": special["<|endoftext|>"],
            "rms_norm_eps": 1e-5, "use_cache": True, "vision_vocab_size": VISION_VOCAB, "vocab_size": tokenizer.VOCAB_SIZE,
            "rope_parameters": {"mrope_section": list(AR["mrope"]), "partial_rotary_factor": AR["partial"], "rope_theta": AR["theta"], "rope_type": "default"},
        },
        "vision_config": {
            "attention_bias": True, "attention_dropout": 0.0, "depth": VISION["depth"], "hidden_act": "gelu", "hidden_size": VISION["hidden"], "image_size": VISION["image_size"],
            "in_channels": 3, "initializer_range": 0.02, "intermediate_size": VISION["mlp"], "layer_norm_eps": 1e-6, "model_type": "glm_image_vision",
            "num_heads": VISION["heads"], "patch_size": 16, "spatial_merge_size": 1,
        },
        "vq_config": {"embed_dim": VISION["embed_dim"], "in_channels": 3, "initializer_range": 0.02, "latent_channels": VISION["hidden"], "model_type": "glm_image_vqmodel",
                      "num_embeddings": CODEBOOK},
    }


@torch.no_grad()
def with_unit_latents(vae: Autoencoder, mean: list[float], std: list[float]) -> tuple[list[float], list[float]]:
    """Moves the spread of each latent channel into the convolutions beside it: the same pictures, better for half precision."""
    scale = torch.tensor(std)
    out = vae.encoder.conv_out
    out.weight[: len(std)] /= scale[:, None, None, None]
    out.bias[: len(std)] /= scale
    vae.decoder.conv_in.weight *= scale[None, :, None, None]
    return [m / s for m, s in zip(mean, std)], [1.0] * len(std)


def main() -> None:
    ap = argparse.ArgumentParser()
    ap.add_argument("--state", required=True)
    ap.add_argument("--out", required=True)
    args = ap.parse_args()
    out = args.out

    writer, tower = Writer(), VisualTokeniser()
    writer.load_state_dict(load(args.state, "ar")["model"])
    tower.load_state_dict(load(args.state, "vision")["model"])
    count = write_tensors(out, "vision_language_encoder/model.safetensors", writer.export_tensors() | tower.export_tensors())
    write_json(out, "vision_language_encoder/config.json", writer_config())
    write_json(out, "vision_language_encoder/generation_config.json", {
        "do_sample": True, "eos_token_id": END, "pad_token_id": tokenizer.SPECIAL_ID["<|image|>"], "temperature": TEMPERATURE, "top_k": VISION_VOCAB, "top_p": TOP_P, "use_cache": True})
    tokenizer.write(os.path.join(out, "processor"))
    write_json(out, "processor/processor_config.json", {
        "image_processor": {"do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
                            "image_processor_type": "GlmImageImageProcessor", "merge_size": 1, "patch_size": 16, "resample": 3, "rescale_factor": 1 / 255,
                            "size": {"longest_edge": 512 * 512, "shortest_edge": 64 * 64}, "temporal_patch_size": 1},
        "processor_class": "GlmImageProcessor"})

    saved = load(args.state, "dit")
    denoiser, glyphs = Denoiser(), GlyphEncoder()
    names = [n for n, _ in denoiser.named_parameters()]
    denoiser.load_state_dict({n: saved["average"][f"dit.{n}"] for n in names}, strict=True)
    glyphs.load_state_dict({n: saved["average"][f"glyph.{n}"] for n, _ in glyphs.named_parameters()})
    count += write_tensors(out, "transformer/diffusion_pytorch_model.safetensors", denoiser.export_tensors())
    write_json(out, "transformer/config.json", {
        "_class_name": "GlmImageTransformer2DModel", "_diffusers_version": "0.40.0.dev0", "attention_head_dim": DIT["head_dim"], "condition_dim": DIT["condition_dim"],
        "in_channels": VAE["latent"], "num_attention_heads": DIT["heads"], "num_layers": DIT["layers"], "out_channels": VAE["latent"], "patch_size": 2,
        "prior_vq_quantizer_codebook_size": CODEBOOK, "text_embed_dim": BYT5["d_model"], "time_embed_dim": DIT["time_dim"]})
    count += write_tensors(out, "text_encoder/model.safetensors", glyphs.state_dict())
    write_json(out, "text_encoder/config.json", {
        "architectures": ["T5EncoderModel"], "classifier_dropout": 0.0, "d_ff": BYT5["d_ff"], "d_kv": BYT5["d_kv"], "d_model": BYT5["d_model"], "dense_act_fn": "gelu_new",
        "dropout_rate": 0.1, "dtype": "float16", "eos_token_id": 1, "feed_forward_proj": "gated-gelu", "initializer_factor": 1.0, "is_decoder": False,
        "is_encoder_decoder": False, "is_gated_act": True, "layer_norm_epsilon": 1e-6, "model_type": "t5", "num_decoder_layers": BYT5["num_layers"],
        "num_heads": BYT5["num_heads"], "num_layers": BYT5["num_layers"], "pad_token_id": 0, "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32, "tie_word_embeddings": True, "use_cache": False, "vocab_size": 384})

    saved = load(args.state, "vae")
    vae = Autoencoder()
    vae.load_state_dict(saved["model"])
    mean, std = with_unit_latents(vae, saved["mean"], saved["std"])
    count += write_tensors(out, "vae/diffusion_pytorch_model.safetensors", vae.state_dict())
    levels = len(VAE["channels"])
    write_json(out, "vae/config.json", {
        "_class_name": "AutoencoderKL", "_diffusers_version": "0.40.0.dev0", "act_fn": "silu", "block_out_channels": list(VAE["channels"]),
        "down_block_types": ["DownEncoderBlock2D"] * levels, "force_upcast": True, "in_channels": 3, "latent_channels": VAE["latent"],
        "latents_mean": mean, "latents_std": std, "layers_per_block": VAE["layers"], "mid_block_add_attention": False,
        "norm_num_groups": VAE["groups"], "out_channels": 3, "sample_size": 512, "scaling_factor": 0.18215, "shift_factor": None,
        "up_block_types": ["UpDecoderBlock2D"] * levels, "use_post_quant_conv": False, "use_quant_conv": False})
    print(f"{count / 1e6:.2f} M weights")


if __name__ == "__main__":
    main()
