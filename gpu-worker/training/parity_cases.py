"""Runs an exported checkpoint through the reference implementation (transformers, diffusers) and stores inputs and outputs
of each stage: `python parity_cases.py --checkpoint DIR --out DIR`. `npm run parity` and the tests compare with them."""
import argparse
import json
import os

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, GlmImagePipeline, GlmImageTransformer2DModel
from diffusers.pipelines.glm_image.pipeline_glm_image import calculate_shift, retrieve_timesteps
from PIL import Image
from safetensors.torch import save_file
from transformers import ByT5Tokenizer, DynamicCache, PreTrainedTokenizerFast, T5EncoderModel
from transformers.models.glm_image.image_processing_pil_glm_image import GlmImageImageProcessorPil
from transformers.models.glm_image.modeling_glm_image import GlmImageForConditionalGeneration
from transformers.models.glm_image.processing_glm_image import GlmImageProcessor

PROMPT, HEIGHT, WIDTH, STEPS, GUIDANCE = "A navy poster with the title 'Hola' and \"50% Ñu!\" below", 256, 256, 4, 1.5
TEXTS = ["Grand Opening 50% OFF", "一张深蓝色海报，上面写着「QXZ」", "café ñandú ¡Sí!", "<sop>8 8<eop>", "3 panels: 'a', “b”", "emoji 🎉 漢\n\nnew  line", ""]
GREEDY_ROWS = 8


class KeepTimesteps(FlowMatchEulerDiscreteScheduler):
    """The denoiser is conditioned on the caller's unshifted timesteps while Euler uses the shifted sigmas; newer diffusers
    overwrites them."""

    def set_timesteps(self, num_inference_steps=None, device=None, sigmas=None, mu=None, timesteps=None):
        super().set_timesteps(num_inference_steps, device=device, sigmas=sigmas, mu=mu, timesteps=timesteps)
        if timesteps is not None:
            self.timesteps = torch.from_numpy(np.asarray(timesteps, dtype=np.float32))


def open_pipeline(folder: str) -> GlmImagePipeline:
    at = lambda name: os.path.join(folder, name)
    with open(at("processor/tokenizer_config.json"), encoding="utf-8") as file:
        names = json.load(file)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=at("processor/tokenizer.json"), bos_token=names["bos_token"], eos_token=names["eos_token"], pad_token=names["pad_token"], padding_side="left",
        extra_special_tokens=dict(image_token=names["image_token"], grid_bos_token=names["grid_bos_token"], grid_eos_token=names["grid_eos_token"]))
    with open(at("processor/processor_config.json"), encoding="utf-8") as file:
        prepared = json.load(file)["image_processor"]
    keys = ("size", "patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std")
    with open(at("processor/chat_template.jinja"), encoding="utf-8") as file:
        template = file.read()
    processor = GlmImageProcessor(GlmImageImageProcessorPil(**{key: prepared[key] for key in keys}), tokenizer, chat_template=template)
    float32 = dict(dtype=torch.float32)
    pipeline = GlmImagePipeline(
        tokenizer=ByT5Tokenizer(), processor=processor, text_encoder=T5EncoderModel.from_pretrained(at("text_encoder"), **float32),
        vision_language_encoder=GlmImageForConditionalGeneration.from_pretrained(at("vision_language_encoder"), **float32),
        vae=AutoencoderKL.from_pretrained(at("vae"), torch_dtype=torch.float32),
        transformer=GlmImageTransformer2DModel.from_pretrained(at("transformer"), torch_dtype=torch.float32),
        scheduler=KeepTimesteps.from_pretrained(at("scheduler")))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class Cases:
    def __init__(self, out: str):
        self.folder, self.list = os.path.join(out, "cases"), []
        os.makedirs(self.folder, exist_ok=True)

    def put(self, name: str, tensors: dict, **meta) -> None:
        path = os.path.join(self.folder, f"{name}.safetensors")
        save_file({key: value.detach().clone().contiguous() for key, value in tensors.items()}, path)
        os.chmod(path, 0o644)
        self.list.append(dict(name=name, tensors={key: list(value.shape) for key, value in tensors.items()}, **meta))

    def close(self) -> None:
        with open(os.path.join(self.folder, "cases.json"), "w", encoding="utf-8") as file:
            json.dump(dict(cases=self.list), file, ensure_ascii=False, indent=1)
            file.write("\n")


def writer_case(pipeline, cases: Cases) -> torch.Tensor:
    processor, model = pipeline.processor, pipeline.vision_language_encoder
    message = [[{"role": "user", "content": [{"type": "text", "text": PROMPT}]}]]
    inputs = dict(processor.apply_chat_template(message, tokenize=True, padding=False, target_h=HEIGHT, target_w=WIDTH, return_dict=True, return_tensors="pt"))
    grid = inputs["image_grid_thw"]
    count, offset, rows, columns = pipeline._compute_generation_params(grid, True)
    model.model.rope_deltas = None
    prefill = model(**inputs)
    positions, _ = model.model.get_rope_index(inputs["input_ids"], image_grid_thw=grid, attention_mask=inputs["attention_mask"], images_per_sample=inputs.get("images_per_sample"))
    decode_positions = model.model._cached_decode_position_ids
    model.model.rope_deltas = None
    made = model.generate(**inputs, max_new_tokens=count, do_sample=False, output_logits=True, return_dict_in_generate=True)
    tokens = made.sequences[:, inputs["input_ids"].shape[1] :]
    forced = tokens[:, : count - 1]
    model.model.rope_deltas = None
    cache = DynamicCache()
    out = model(**inputs, past_key_values=cache, use_cache=True)
    logits = [out.logits[:, -1]]
    for step in range(forced.shape[1]):
        out = model(input_ids=forced[:, step : step + 1], past_key_values=cache, use_cache=True,
                    attention_mask=torch.ones(1, cache.get_seq_length() + 1, dtype=torch.long), image_grid_thw=grid)
        logits.append(out.logits[:, -1])
    prior = pipeline._upsample_token_ids(forced[0, offset : offset + rows * columns], rows, columns)
    cases.put("ar_trained", dict(
        input_ids=inputs["input_ids"], position_ids=positions, decode_position_ids=decode_positions, prefill_logits=prefill.logits,
        greedy_tokens=tokens[:, :GREEDY_ROWS], greedy_logits=torch.stack(made.logits[:GREEDY_ROWS], 1), forced_tokens=forced, forced_logits=torch.stack(logits, 1), prior_token_ids=prior),
        kind="autoregressive", prompt=PROMPT, height=HEIGHT, width=WIDTH, large_offset=offset,
        rendered_prompt=processor.tokenizer.decode(inputs["input_ids"][0], skip_special_tokens=False))
    return prior


def painter_cases(pipeline, cases: Cases, prior: torch.Tensor) -> None:
    cpu = torch.device("cpu")
    glyphs, nothing = pipeline.encode_prompt(PROMPT, True, dtype=torch.float32, device=cpu)
    cases.put("glyph_trained", dict(prompt_embeds=glyphs, negative_prompt_embeds=nothing), kind="glyph", prompt=PROMPT, glyph_texts=pipeline.get_glyph_texts(PROMPT)[0])
    channels = pipeline.transformer.config.in_channels
    latents = torch.randn(1, channels, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(11))
    size, crop, start = torch.tensor([[HEIGHT, WIDTH]], dtype=torch.float32), torch.zeros(1, 2), torch.tensor([640.0])
    kept = torch.zeros_like(prior, dtype=torch.bool)
    call = lambda states, dropped: pipeline.transformer(hidden_states=latents, encoder_hidden_states=states, prior_token_id=prior, prior_token_drop=dropped, timestep=start,
                                                        target_size=size, crop_coords=crop, return_dict=False)[0]
    run = lambda kind: pipeline(prompt=PROMPT, height=HEIGHT, width=WIDTH, num_inference_steps=STEPS, guidance_scale=GUIDANCE, prior_token_ids=prior, latents=latents.clone(),
                                output_type=kind).images
    cases.put("dit_trained", dict(latents=latents, prior_token_ids=prior, prompt_embeds=glyphs, negative_prompt_embeds=nothing, timestep=start, target_size=size,
                                  cond=call(glyphs, kept), uncond=call(nothing, ~kept), final_latents=run("latent"), image=torch.from_numpy(np.asarray(run("np")))),
              kind="diffusion", prompt=PROMPT, height=HEIGHT, width=WIDTH, steps=STEPS, guidance_scale=GUIDANCE)
    shares = np.linspace(1000, 1.0, STEPS + 1)[:-1].astype(np.int64).astype(np.float32)
    mu = calculate_shift(HEIGHT * WIDTH // 256, 256, 0.25, 0.75)
    scheduler = KeepTimesteps.from_config(pipeline.scheduler.config)
    timesteps, _ = retrieve_timesteps(scheduler, STEPS, "cpu", shares, shares / 1000, mu=mu)
    cases.put("sched_trained", dict(timesteps=timesteps.float(), sigmas=scheduler.sigmas.float()), kind="schedule", height=HEIGHT, width=WIDTH, steps=STEPS, mu=float(mu))


def edit_case(pipeline, cases: Cases) -> None:
    """A condition image of the generator's own: what the tower reads in it, and one run that looks at it."""
    from cells import draw_grid
    from scenes import Scene, Text, place

    processor, model = pipeline.processor, pipeline.vision_language_encoder
    scene = Scene("teal", "title", [Text("Pan", "white", False), Text("9am", "yellow", True)])
    picture = Image.fromarray(draw_grid(place(scene, 4, 4), scene.bg))
    width, height = picture.size
    prompt = "Write 'Sale' on it"
    message = [[{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": prompt}]}]]
    inputs = dict(processor.apply_chat_template(message, tokenize=True, padding=False, target_h=height, target_w=width, return_dict=True, return_tensors="pt"))
    grid = inputs["image_grid_thw"]
    source = grid[:-1]
    codes = model.get_image_tokens(model.get_image_features(inputs["pixel_values"], source).pooler_output, source)
    model.model.rope_deltas = None
    count, _, rows, columns = pipeline._compute_generation_params(grid, False)
    made = model.generate(**inputs, max_new_tokens=count, do_sample=False, output_logits=True, return_dict_in_generate=True)
    tokens = made.sequences[:, inputs["input_ids"].shape[1] :]
    positions, _ = model.model.get_rope_index(inputs["input_ids"], image_grid_thw=grid, attention_mask=inputs["attention_mask"], images_per_sample=inputs.get("images_per_sample"))
    prior = pipeline._upsample_token_ids(codes[: rows * columns], rows, columns)
    read = pipeline._upsample_token_ids(codes, int(source[0, 1]), int(source[0, 2])).squeeze(0)
    up = source.clone()
    up[:, 1:] *= 2
    latents = torch.randn(1, pipeline.transformer.config.in_channels, height // 8, width // 8, generator=torch.Generator().manual_seed(13))
    final = pipeline(prompt=prompt, image=[picture], height=height, width=width, num_inference_steps=STEPS, guidance_scale=GUIDANCE, prior_token_ids=prior,
                     prior_token_image_ids=[read], source_image_grid_thw=[up], latents=latents.clone(), output_type="latent").images
    pixels = pipeline.image_processor.preprocess(picture, height=height, width=width)
    cases.put("edit_trained", dict(
        pixel_values=inputs["pixel_values"], input_ids=inputs["input_ids"], source_tokens=codes, greedy_tokens=tokens, greedy_logits=torch.stack(made.logits, 1),
        position_ids=positions, prior_token_ids=prior, prior_token_image_ids=read, latents=latents, final_latents=final, image_0=torch.from_numpy(np.asarray(picture).copy()),
        vae_input_0=pixels, vae_mode_0=pipeline.vae.encode(pixels).latent_dist.mode()),
        kind="edit", prompt=prompt, height=height, width=width, steps=STEPS, guidance_scale=GUIDANCE,
        rendered_prompt=processor.tokenizer.decode(inputs["input_ids"][0], skip_special_tokens=False))


def main() -> None:
    ap = argparse.ArgumentParser()
    ap.add_argument("--checkpoint", required=True)
    ap.add_argument("--out", required=True)
    args = ap.parse_args()
    torch.set_grad_enabled(False)
    pipeline, cases = open_pipeline(args.checkpoint), Cases(args.out)
    painter_cases(pipeline, cases, writer_case(pipeline, cases))
    edit_case(pipeline, cases)
    encode = pipeline.processor.tokenizer
    cases.put("tokenizer", {f"ids_{i}": torch.tensor(encode(text, add_special_tokens=False).input_ids or [-1]) for i, text in enumerate(TEXTS)}, kind="tokenizer", texts=TEXTS)
    cases.close()


if __name__ == "__main__":
    main()
