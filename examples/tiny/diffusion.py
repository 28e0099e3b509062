"""Trains the text-to-image model: a small UNet over the latents, led by the text tower."""

from pathlib import Path

import numpy as np
import torch
from data import coco128, flickr8k
from diffusers import DDPMScheduler, UNet2DConditionModel
from image_decoder import load_pairs
from latents import CHANNELS, GRID
from safetensors.torch import load_file
from text_tower import CONTEXT, HEADS, LAYERS, WIDTH, tokenize
from torch import Tensor, nn
from training import Budget, Checkpoint, set_rate, training_parser, update_average
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

CHANNEL_WIDTH = 208
SCHEDULE = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
SNR_LIMIT = 5.0  # min-SNR weighting: nearly clean latents have little left to teach
UNCONDITIONAL = 0.1


def build_unet() -> UNet2DConditionModel:
    """One resolution, 4x4: most weights are in the attention blocks."""
    return UNet2DConditionModel(
        sample_size=GRID,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        mid_block_type=None,
        block_out_channels=(CHANNEL_WIDTH,),
        layers_per_block=1,
        norm_num_groups=16,
        cross_attention_dim=WIDTH,
        attention_head_dim=8,
        time_embedding_dim=2 * CHANNEL_WIDTH,
    )


def text_encoder(tower: dict[str, Tensor], vocabulary: int) -> CLIPTextModel:
    """The distilled text tower, in the layout of transformers."""
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=CONTEXT,
        hidden_act="gelu",
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    state = {
        "embeddings.token_embedding.weight": tower["token_embedding.weight"],
        "embeddings.position_embedding.weight": tower["positional_embedding"],
    }
    parts = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2"}
    parts |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for kind in ("weight", "bias"):
        state[f"final_layer_norm.{kind}"] = tower[f"ln_final.{kind}"]
        for i in range(LAYERS):
            old, new = f"transformer.resblocks.{i}", f"encoder.layers.{i}"
            stacked = tower[f"{old}.attn.in_proj_{kind}"].chunk(3)
            for name, value in zip("qkv", stacked, strict=True):
                state[f"{new}.self_attn.{name}_proj.{kind}"] = value
            for theirs, ours in parts.items():
                state[f"{new}.{ours}.{kind}"] = tower[f"{old}.{theirs}.{kind}"]
    model = CLIPTextModel(config)
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def text_states(out: Path, texts: list[str], device: str, batch: int = 250) -> Tensor:
    """The text encoder's states (n, CONTEXT, WIDTH) in float16; the last row is the empty text."""
    tokenizer = CLIPTokenizer.from_pretrained(out / "tokenizer")
    encoder = text_encoder(load_file(out / "text_tower.safetensors"), len(tokenizer)).to(device)
    tokens, _ = tokenize(tokenizer, [*texts, ""])
    pieces = [encoder(rows.to(device))[0].half().cpu() for rows in tokens.split(batch)]
    return torch.cat(pieces)


class Trainer:
    """The UNet, its running average and one training step."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.unet = build_unet().to(device)
        self.average = build_unet().to(device).requires_grad_(False)
        self.average.load_state_dict(self.unet.state_dict())
        self.optimizer = torch.optim.AdamW(
            self.unet.parameters(), betas=(0.9, 0.99), weight_decay=0.01
        )
        self.schedule = DDPMScheduler(**SCHEDULE)

    def train_step(self, step: int, latents: Tensor, states: Tensor) -> float:
        """One update towards the velocity of the noised latents."""
        noise = torch.randn_like(latents)
        times = torch.randint(1000, (len(latents),), device=self.device)
        noisy = self.schedule.add_noise(latents, noise, times)
        target = self.schedule.get_velocity(latents, noise, times)
        error = (self.unet(noisy, times, states).sample - target).square().mean((1, 2, 3))
        signal = self.schedule.alphas_cumprod.to(self.device)[times]
        ratio = signal / (1 - signal)
        loss = (error * ratio.clamp(max=SNR_LIMIT) / (ratio + 1)).mean()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()
        update_average(self.average, self.unet, step + 1, 0.999)
        return error.mean().item()


def captions_of(data: Path) -> tuple[list[str], list[np.ndarray]]:
    """All captions of the training photos, and each photo's rows among them."""
    photos = flickr8k(data, "train") + coco128(data, "train")
    ends = np.cumsum([len(photo.captions) for photo in photos])
    texts = [caption for photo in photos for caption in photo.captions]
    return texts, np.split(np.arange(len(texts)), ends[:-1])


def draw(
    count: int, rows: list[np.ndarray], random: np.random.RandomState
) -> tuple[Tensor, Tensor]:
    """Rows of latents (photos, then mirror images) and of text states for a batch."""
    photos = random.randint(len(rows), size=count)
    views = photos + len(rows) * random.randint(2, size=count)
    texts = np.array([rows[i][random.randint(len(rows[i]))] for i in photos])
    texts[random.uniform(size=count) < UNCONDITIONAL] = -1  # the empty text
    return torch.from_numpy(views), torch.from_numpy(texts)


def main() -> None:
    parser = training_parser(__doc__, minutes=60.0, batch=64, rate=1e-3)
    parser.add_argument("--clip", type=Path, required=True, help="folder of the dual encoder")
    args = parser.parse_args()
    latents, _, _ = load_pairs(args.data, args.out, args.clip)
    texts, rows = captions_of(args.data)
    states = text_states(args.out, texts, args.device)
    trainer, budget = Trainer(args.device), Budget(args.minutes)
    parts = {name: getattr(trainer, name) for name in ("unet", "average", "optimizer")}
    checkpoint = Checkpoint(args.out / "diffusion.ckpt", parts, args.device)
    random = np.random.RandomState(checkpoint.step)
    for step in checkpoint.steps(budget):
        set_rate(trainer.optimizer, args.rate * budget.rate(step, 200, 0.3))
        views, captions = draw(args.batch, rows, random)
        error = trainer.train_step(
            step, latents[views].to(args.device), states[captions].float().to(args.device)
        )
        if step % 100 == 0:
            print(f"step {step}  {budget.used:.0f} s  error {error:.3f}", flush=True)


if __name__ == "__main__":
    main()
