"""From clean stain to a crop: focus, halo, exposure, grain, noise, the background correction and the cut."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from supcam.composition.masks import WHITE, Grey, Mask, largest_component
from supcam.serving.bodies import dilated
from supcam.serving.images import FOREGROUND
from supcam.synthetic.look import Look

_LEAST_DARK = 0.03  # optical density: a pixel that a mask keeps is never as light as background


def photograph(stain: NDArray[np.float64], body: Mask, look: Look, rng: np.random.Generator) -> tuple[Grey, Mask]:
    """A crop of a clean stain (H, W), and where the same without grain and noise is darker than background.

    ``body`` (H, W) is the outline; crops that are cut by a mask keep it and a rim around it.
    """
    seen = _focused(stain, look)
    fog = ndimage.gaussian_filter(rng.standard_normal(stain.shape), rng.uniform(0.6, 1.4))
    grain = 1.0 + look.grain * fog / max(float(fog.std()), 1e-6)
    shade = _shade(stain.shape, look, rng)
    noise = rng.standard_normal(stain.shape) * look.noise
    clean = _exposed(seen * shade, look)
    noisy = _exposed(seen * shade * np.maximum(grain, 0.2), look) + noise
    if look.jpeg:
        noisy = _through_jpeg(noisy, look.jpeg)
    if look.levels < WHITE:
        step = WHITE / look.levels
        noisy = np.round(noisy / step) * step
    kept, clean_kept = _cut(noisy, body, look, rng), _cut(clean, body, look, None)
    lightest = WHITE * np.exp(-_LEAST_DARK)
    image = np.where(kept, np.clip(np.round(np.minimum(noisy, lightest)), 0, FOREGROUND - 1), WHITE).astype(np.uint8)
    return image, clean_kept


def _focused(stain: NDArray[np.float64], look: Look) -> NDArray[np.float64]:
    """Optical density (transmitted light) or brightness (fluorescence) behind the optics, with its halo."""
    light = stain if look.fluorescent else 1.0 - np.exp(-stain * look.density)
    sharp = ndimage.gaussian_filter(light, look.blur)
    seen: NDArray[np.float64] = (1.0 - look.halo) * sharp + look.halo * ndimage.gaussian_filter(light, 3.0 * look.blur)
    if look.sharpening:
        seen = np.maximum(seen + look.sharpening * (seen - ndimage.gaussian_filter(seen, 1.5 + look.blur)), 0.0)
    return seen


def _exposed(seen: NDArray[np.float64], look: Look) -> NDArray[np.float64]:
    """Grey values, 0-255 float, dark on white."""
    dark = seen * look.density if look.fluorescent else seen
    if look.stretched:
        dark = dark / max(float(dark.max()), 1e-6)
    grey: NDArray[np.float64] = WHITE - (WHITE - look.black) * np.clip(dark, 0.0, 1.0)
    return grey


def _shade(shape: tuple[int, ...], look: Look, rng: np.random.Generator) -> NDArray[np.float64]:
    """Factor (H, W) of uneven light: a slope in a random direction."""
    angle, strength = rng.uniform(0.0, 2 * np.pi), look.shading * rng.random()
    y, x = np.ogrid[: shape[0], : shape[1]]
    slope = (y / shape[0] - 0.5) * np.sin(angle) + (x / shape[1] - 0.5) * np.cos(angle)
    shade: NDArray[np.float64] = 1.0 + strength * slope
    return shade


def _through_jpeg(grey: NDArray[np.float64], quality: int) -> NDArray[np.float64]:
    buffer = io.BytesIO()
    Image.fromarray(np.clip(np.round(grey), 0, WHITE).astype(np.uint8)).save(buffer, format="JPEG", quality=quality)
    return np.asarray(Image.open(buffer), dtype=np.float64)


def _cut(grey: NDArray[np.float64], body: Mask, look: Look, rng: np.random.Generator | None) -> Mask:
    """What of the picture stays when its surroundings are made white: one component."""
    if look.cut == "threshold":
        return largest_component(grey < min(look.cut_level, FOREGROUND - 0.5))
    distance = ndimage.distance_transform_edt(~body)
    ragged = 0.0 if rng is None else 0.7 * ndimage.gaussian_filter(rng.standard_normal(body.shape), 1.0) * 2.5
    return (
        largest_component(body | (distance + ragged <= look.rim)) if look.rim > 0 else largest_component(dilated(body))
    )
