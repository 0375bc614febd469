"""DiffuseMix: what the paper sets itself apart from, as a baseline of the study.

After Islam et al. (CVPR 2024, arXiv 2405.14881): a style prompt edits the training image, one half
of the image and the other half of its edit are put together, and a fractal is blended in; the label
stays. From their released code: nine styles, four ways to halve, a soft seam of 20 pixels at 256,
and a fractal's share of 0.2.

Our choice: the edit is made by the study's own text-to-image model, started from the noised image
(SDEdit, Meng et al., arXiv 2108.01073) where theirs is InstructPix2Pix, so that both methods draw
on one model; its prompt also names the class, as without it little of a fine-grained class is left,
which favours this baseline; and the fractals are Julia sets, drawn here, where theirs are a
collection of pictures.
"""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import (
    DiffusionPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
)
from PIL import Image
from torch import Generator, Tensor

from diffcore.generation import hash_model
from diffcore.mixing import Mixed

#: The styles of the authors' released code.
STYLES = (
    "autumn", "snowy", "watercolor art", "sunset", "rainbow", "aurora", "mosaic", "ukiyo-e",
    "a sketch with crayon",
)  # fmt: skip

_ITERATIONS = 40
_BAILOUT = 8.0  # beyond 2, where points escape: makes the count of iterations smooth


# ---------------------------------------------------------------------------------------- the edits
def edit_images(
    plan: pd.DataFrame,
    images: np.ndarray,
    pipeline: DiffusionPipeline,
    out_dir: str | Path,
    *,
    strength: float,
    guidance_scale: float,
    num_inference_steps: int,
    batch_size: int = 8,
    shard_size: int = 256,
) -> pd.DataFrame:
    """Edit images by the prompts of a plan; a shard that a folder holds is not drawn again.

    Args:
        plan: N rows, columns as from `diffcore.prompts.plan_generation`.
        images: what each row starts from, (N, H, W, 3) uint8.
        pipeline: as of `diffcore.generation.generate`; its parts are used for image to image.
        out_dir: folder of the shards; made if needed.
        strength: how far back into noise an image is sent, in (0, 1]; at 1 nothing is left of it.
        guidance_scale: classifier-free guidance.
        num_inference_steps: of the whole schedule, of which `strength` is the share that is run.
        batch_size: images drawn together.
        shard_size: images per Parquet file, the most that a kill can lose.

    Returns:
        The plan with the column ``image``, as `diffcore.generation.decode_images` reads it.

    Raises:
        ValueError: if plan and images differ in number, or no step is left to run.
    """
    if len(plan) != len(images):
        raise ValueError(f"the plan has {len(plan)} rows, but there are {len(images)} images")
    if not (0 < strength <= 1 and int(strength * num_inference_steps) >= 1):
        raise ValueError(f"strength {strength} leaves none of {num_inference_steps} steps to run")
    settings = {
        "strength": strength, "guidance_scale": guidance_scale,
        "num_inference_steps": num_inference_steps,
    }  # fmt: skip
    editor = _editor(pipeline)
    made_by = repr((hash_model(pipeline), sorted(settings.items()), images.shape[1:]))
    shards = []
    for chosen in _slices(len(plan), shard_size):
        rows, sources = plan.iloc[chosen], images[chosen]
        path = Path(out_dir) / f"{_key(made_by, rows, sources)}.parquet"
        if not path.exists():
            parts = _slices(len(rows), batch_size)
            drawn = [_edit(editor, rows.iloc[part], sources[part], settings) for part in parts]
            _write(rows, np.concatenate(drawn), path)
        shards.append(pd.read_parquet(path))
    return pd.concat(shards, ignore_index=True)


def _editor(pipeline: DiffusionPipeline) -> DiffusionPipeline:
    """Turn a text-to-image pipeline into an image-to-image one made of the very same parts."""
    if isinstance(pipeline, StableDiffusionPipeline):
        editor = StableDiffusionImg2ImgPipeline(
            **pipeline.components, requires_safety_checker=pipeline.safety_checker is not None
        )
    else:
        editor = StableDiffusionXLImg2ImgPipeline(
            **pipeline.components,
            force_zeros_for_empty_prompt=pipeline.config.force_zeros_for_empty_prompt,
            add_watermarker=False,
        )
    editor.set_progress_bar_config(disable=True)
    return editor


@torch.inference_mode()
def _edit(
    editor: DiffusionPipeline, rows: pd.DataFrame, images: np.ndarray, settings: dict
) -> np.ndarray:
    """Edit one batch: (B, H, W, 3) uint8 to the same. Each image has a generator of its own."""
    sizes = {}
    if isinstance(editor, StableDiffusionXLImg2ImgPipeline):  # which is told the size in words
        sizes = dict.fromkeys(("original_size", "target_size"), images.shape[1:3])
    drawn = editor(
        prompt=rows["prompt"].tolist(),
        negative_prompt=rows["negative_prompt"].tolist(),
        image=torch.from_numpy(images).permute(0, 3, 1, 2) / 255,
        generator=[torch.Generator().manual_seed(seed) for seed in rows["seed"].tolist()],
        output_type="pt",
        **sizes,
        **settings,
    ).images
    return (drawn.float() * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


def _key(made_by: str, rows: pd.DataFrame, images: np.ndarray) -> str:
    """Name a shard by all that decides about its pixels."""
    digest = hashlib.sha256(made_by.encode())
    digest.update(rows.to_json(orient="values").encode())
    digest.update(np.ascontiguousarray(images))
    return digest.hexdigest()[:24]


def _write(rows: pd.DataFrame, images: np.ndarray, path: Path) -> None:
    """Write rows and images (PNG) as one file, or not at all."""
    pngs = []
    for pixels in images:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", compress_level=1)
        pngs.append({"bytes": file.getvalue(), "path": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    rows.assign(image=pngs).to_parquet(partial, index=False)
    partial.replace(path)


# ------------------------------------------------------------------------------------- the fractals
def draw_fractals(count: int, size: int, seed: int = 0) -> Tensor:
    """Draw Julia sets in colours of their own: (count, 3, size, size) in [0, 1].

    Their constants lie just outside the main cardioid of the Mandelbrot set, where the pictures are
    richest; how fast each point escapes is coloured by three cosines of random phase.

    >>> draw_fractals(2, size=32).shape
    torch.Size([2, 3, 32, 32])
    """
    rng = np.random.default_rng(seed)
    angle, beyond = rng.uniform(0, 2 * np.pi, count), rng.uniform(1.02, 1.12, count)
    cardioid = np.exp(1j * angle) / 2 - np.exp(2j * angle) / 4
    speed = _escape_speed(cardioid * beyond, rng.uniform(0.9, 1.4, count), size)
    phase = rng.uniform(0, 2 * np.pi, (count, 3, 1, 1))
    turns = rng.uniform(0.8, 2.0, (count, 1, 1, 1))
    colours = 0.5 - 0.5 * np.cos(2 * np.pi * turns * speed[:, None] + phase)
    return torch.from_numpy(colours.astype(np.float32))


def _escape_speed(constants: np.ndarray, reach: np.ndarray, size: int) -> np.ndarray:
    """Iterate z² + c over squares of half side `reach`: (N, size, size) in [0, 1], smooth."""
    axis = np.linspace(-1, 1, size)
    z = reach[:, None, None] * (axis[None, None, :] + 1j * axis[None, :, None])
    steps = np.full(z.shape, float(_ITERATIONS))
    for step in range(_ITERATIONS):
        z = np.where(np.abs(z) < _BAILOUT, z * z + constants[:, None, None], z)
        escaped = (np.abs(z) >= _BAILOUT) & (steps == _ITERATIONS)
        # The part of a step by which the bailout was overshot.
        steps[escaped] = step - np.log2(np.log(np.abs(z[escaped])) / np.log(_BAILOUT))
    return np.log1p(steps.clip(min=0)) / np.log1p(_ITERATIONS)


# -------------------------------------------------------------------------------------- the mixing
def half_weights(halves: Tensor, height: int, width: int, seam: float) -> Tensor:
    """Share of the real image at each pixel when one half of it is kept.

    Args:
        halves: (B,) which half: 0 left, 1 right, 2 top, 3 bottom.
        height: of the image, pixels.
        width: of the image, pixels.
        seam: width of the linear transition between the halves, in sides of the image; 0 is hard.

    Returns:
        (B, 1, H, W) in [0, 1], 1/2 on average.
    """
    across = _ramp(width, seam).expand(height, width)
    down = _ramp(height, seam)[:, None].expand(height, width)
    kinds = torch.stack([across, across.flip(1), down, down.flip(0)])
    return kinds[halves.cpu()][:, None].to(halves.device)


def _ramp(length: int, seam: float) -> Tensor:
    """Fall from 1 to 0 around the middle of a line: (length,), 1/2 on average."""
    distance = (torch.arange(length) + 0.5) / length - 0.5
    return (0.5 - distance / max(seam, 1e-6)).clamp(0, 1)


class DiffuseMix:
    """Put half of each image and half of its edit together, and blend a fractal in.

    >>> mix = DiffuseMix(draw_fractals(4, size=32))
    >>> mix(torch.rand(8, 3, 32, 32), torch.rand(8, 3, 32, 32)).images.shape
    torch.Size([8, 3, 32, 32])
    """

    def __init__(self, fractals: Tensor, seam: float = 20 / 256, fractal_share: float = 0.2):
        """Take fractals (F, C, H, W) in [0, 1]; seam and share in [0, 1], else ValueError."""
        for name, value in (("seam", seam), ("fractal_share", fractal_share)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; it must be in [0, 1]")
        self.fractals, self.seam, self.fractal_share = fractals, seam, fractal_share

    def __call__(self, real: Tensor, edited: Tensor, generator: Generator | None = None) -> Mixed:
        """Mix images (B, C, H, W) with their edits; half and fractal are drawn for each.

        The weights are the real images': what they and the fractal's share leave is the edits'.
        """
        device = "cpu" if generator is None else generator.device
        halves = torch.randint(4, (len(real),), generator=generator, device=device)
        chosen = torch.randint(len(self.fractals), (len(real),), generator=generator, device=device)
        weight = half_weights(halves, *real.shape[2:], self.seam).to(real)
        fractals = self.fractals[chosen.to(self.fractals.device)].to(real)
        images = torch.lerp(edited, real, weight).lerp(fractals, self.fractal_share)
        weight = (1 - self.fractal_share) * weight
        return Mixed(images, weight.mean(dim=(1, 2, 3)), weight)
