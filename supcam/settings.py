"""Settings of every stage, read from ``params.yaml`` and checked before any work starts."""

import codecs
import re
import shlex
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from supcam.errors import SettingError, UsageError


class Section(BaseModel):
    """One section of ``params.yaml``: unknown keys are errors, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _NoEffect(Enum):
    NO_EFFECT = "changes no result"


# Marks a setting that changes no result: checkpoints, studies and jobs made with another value of it still count.
NO_EFFECT = _NoEffect.NO_EFFECT


def _rising(floor: float, ceiling: float) -> AfterValidator:
    """Refuses a range to search that falls, or that leaves ``floor`` to ``ceiling``."""

    def check(value: tuple[float, float]) -> tuple[float, float]:
        if not floor <= value[0] <= value[1] <= ceiling:
            raise ValueError(f"two rising numbers within {floor} to {ceiling}")
        return value

    return AfterValidator(check)


class RuntimeSettings(Section):
    """What the result depends on besides data and method: seed, threads, device, number format."""

    seed: int = Field(42, ge=0, lt=2**31)
    threads: int = Field(2, ge=1, le=256)
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    # auto: bf16-mixed where the device computes in it, else 32-true
    precision: Literal["auto", "32-true", "bf16-mixed", "64-true"] = "32-true"
    compile: bool = False
    progress: Annotated[bool, NO_EFFECT] = True


class InputSettings(Section):
    """How a crop becomes a square: ``letterbox`` scales it to fit, ``native`` keeps its pixel scale."""

    size: int = Field(96, ge=32, le=512, multiple_of=8)
    scale: Literal["letterbox", "native"] = "letterbox"
    # Keep the canvases in a file below the state folder instead of in memory.
    memory_map: Annotated[bool, NO_EFFECT] = False


TORCHVISION_WIDTH = 64


class ModelSettings(Section):
    """The encoder, by name, its width (channels of the first of four stages, each twice the one before), its norm, and
    how it pools its last grid: means of the channels, or means and maxima.
    """

    encoder: Literal[
        "resnet10", "resnet18", "resnet34", "resnet50", "resnext50_32x4d", "resnext101_32x8d", "convnext_tiny", "swin_t"
    ] = "resnet18"
    width: int = Field(TORCHVISION_WIDTH, ge=8, le=512, multiple_of=8)
    norm: Literal["batch", "group"] = "batch"
    pooling: Literal["average", "average_max"] = "average"

    @property
    def description(self) -> str:
        """All of it in words, for messages."""
        return f"encoder {self.encoder}, width {self.width}, norm {self.norm}, pooling {self.pooling}"

    @model_validator(mode="after")
    def _width_is_of_basic_blocks(self) -> "ModelSettings":
        if self.width != TORCHVISION_WIDTH and self.encoder not in ("resnet10", "resnet18", "resnet34"):
            raise ValueError(f"width other than {TORCHVISION_WIDTH} needs the encoder resnet10, resnet18 or resnet34")
        return self


class ValidateSettings(Section):
    """Limits of the expectations on raw crops; ``stop`` and ``warn`` change what a rule does when it fails."""

    min_side: int = Field(8, ge=1, le=4096)
    max_side: int = Field(2048, ge=16, le=65536)
    min_crops_per_type: int = Field(1, ge=0)
    min_background: int = Field(250, ge=0, le=255)
    min_foreground: float = Field(0.02, ge=0.0, le=1.0)
    max_foreground: float = Field(0.98, ge=0.0, le=1.0)
    # Robust deviations (of logarithms) from the median of the source.
    outlier_range: float = Field(6.0, ge=2.0, le=100.0)
    # Correlation of two pictures at or above which they count as one; measured in docs/data.md.
    near_duplicate: float = Field(0.99, gt=0.5, le=1.0)
    warn: list[str] = Field(default_factory=list)
    stop: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _ordered(self) -> "ValidateSettings":
        for low, high in (("min_side", "max_side"), ("min_foreground", "max_foreground")):
            if getattr(self, low) >= getattr(self, high):
                raise ValueError(f"{low} must be below {high}")
        return self


class SplitSettings(Section):
    """How crops are divided into train, validation and test."""

    protocol: Literal["by_case", "paper"] = "by_case"
    # Cases of one id in several sources, or in spellings such as 1 and 1.0: one patient, or several.
    same_case: Literal["together", "apart"] = "together"
    validation: float = Field(0.15, gt=0.0, lt=0.5)
    test: float = Field(0.15, gt=0.0, lt=0.5)
    seed: int = Field(42, ge=0, lt=2**31)


Range: TypeAlias = tuple[float, float]


class LookRanges(Section):
    """Ranges that the look of a drawn case is drawn from; sources and measurements: docs/drawn.md.

    Two numbers are the ends of a range (lengths in pixels), one number is a probability.
    """

    # Shape. Widths, lengths and openings of chromatids as parts of the chromosome's width.
    width: Annotated[Range, _rising(2.0, 40.0)] = (7.0, 15.0)
    # Length of a chromosome of mean length in its widths, drawn evenly in its logarithm: condensation.
    slenderness: Annotated[Range, _rising(1.2, 20.0)] = (2.2, 9.0)
    bend: Annotated[Range, _rising(0.0, 3.0)] = (0.3, 1.4)
    kinks: Annotated[Range, _rising(0.0, 3.0)] = (0.0, 0.7)
    open_share: Annotated[Range, _rising(0.0, 1.0)] = (0.0, 0.6)
    opening: Annotated[Range, _rising(0.0, 2.0)] = (0.05, 0.6)
    groove: Annotated[Range, _rising(0.2, 0.98)] = (0.35, 0.95)
    waist: Annotated[Range, _rising(0.0, 0.7)] = (0.1, 0.5)
    roundness: Annotated[Range, _rising(0.0, 1.0)] = (0.1, 0.8)
    unevenness: Annotated[Range, _rising(0.0, 0.5)] = (0.0, 0.2)
    # Stain.
    banded: float = Field(0.6, ge=0.0, le=1.0)
    light_bands: Annotated[Range, _rising(0.05, 1.0)] = (0.12, 0.7)
    pale_gaps: Annotated[Range, _rising(0.0, 1.0)] = (0.0, 0.3)
    spots: Annotated[Range, _rising(0.0, 1.0)] = (0.0, 0.5)
    seam: Annotated[Range, _rising(0.0, 1.0)] = (0.0, 0.9)
    sisters: Annotated[Range, _rising(0.0, 1.0)] = (0.0, 0.4)
    mottle: Annotated[Range, _rising(0.0, 1.0)] = (0.0, 0.4)
    pale_tips: Annotated[Range, _rising(0.0, 1.0)] = (0.0, 0.6)
    # Camera. Density: optical density of dark bands, or brightness of fluorescence as a part of its full scale.
    fluorescent: float = Field(0.5, ge=0.0, le=1.0)
    density: Annotated[Range, _rising(0.1, 4.0)] = (0.35, 1.8)
    blur: Annotated[Range, _rising(0.0, 5.0)] = (0.7, 2.6)
    halo: Annotated[Range, _rising(0.0, 0.6)] = (0.0, 0.35)
    sharpening: Annotated[Range, _rising(0.0, 3.0)] = (0.0, 1.0)
    grain: Annotated[Range, _rising(0.0, 0.5)] = (0.0, 0.08)
    noise: Annotated[Range, _rising(0.0, 20.0)] = (0.0, 2.5)
    black: Annotated[Range, _rising(0.0, 120.0)] = (0.0, 60.0)
    stretched: float = Field(0.5, ge=0.0, le=1.0)  # grey values of each crop stretched to black
    shading: Annotated[Range, _rising(0.0, 0.5)] = (0.0, 0.15)
    few_levels: float = Field(0.3, ge=0.0, le=1.0)
    levels: Annotated[Range, _rising(16.0, 256.0)] = (32.0, 160.0)
    jpeg: float = Field(0.15, ge=0.0, le=1.0)
    jpeg_quality: Annotated[Range, _rising(30.0, 100.0)] = (60.0, 95.0)
    # Cut. By a mask, with a rim around the outline; else at a grey level above which all is white.
    masked: float = Field(0.5, ge=0.0, le=1.0)
    cut_level: Annotated[Range, _rising(150.0, 254.0)] = (225.0, 250.0)
    rim: Annotated[Range, _rising(0.0, 12.0)] = (0.0, 4.0)


class DrawnSettings(Section):
    """Drawn crops that are trained with: singles of so many looks, as crops and as sources of composites."""

    looks: int = Field(0, ge=0, le=100_000)
    singles: int = Field(15, ge=2, le=10_000)  # of each look
    seed: int = Field(42, ge=0, lt=2**31)
    share: float = Field(0.0, ge=0.0, le=1.0)  # of the composites that are made of drawn singles
    ranges: LookRanges = LookRanges()

    @model_validator(mode="after")
    def _share_of_something(self) -> "DrawnSettings":
        if self.share and not self.looks:
            raise ValueError("share must be 0 without looks; draw some with looks above 0")
        return self


class ComposeSettings(Section):
    """Category-variant composition: how many composites, of what, and how crops may meet (pixels, degrees)."""

    count: int = Field(400, ge=0, le=1_000_000)
    seed: int = Field(42, ge=0, lt=2**31)
    workers: Annotated[int, NO_EFFECT] = Field(2, ge=1, le=256)
    on_the_fly: bool = False  # compose again in every epoch instead of reading the set that DVC keeps
    masks: bool = False  # also write which pixels belong to which source, for training segmentation
    # What to compose. Without target_shares: inversely to the class counts of the sources.
    target_shares: dict[Literal["touching", "overlapping", "touching-overlapping"], float] | None = None
    # Cells "type+type:relation", for example "instance+touching:overlap"; none given means all 20 and "both".
    cells: list[str] | None = None
    # Weights of touch, overlap and both among the cells that give the target.
    relation_mix: dict[Literal["touch", "overlap", "both"], float] = {"touch": 1.0, "overlap": 1.0, "both": 0.2}
    # Share of cells whose type differs from both parents' types (the ablation compares 0 with 1).
    variant_share: float = Field(0.8, ge=0.0, le=1.0)
    # Shares of composites of 2, 3, 4 and 5 sources.
    chain_shares: list[float] = Field(default=[0.85, 0.1, 0.04, 0.01], min_length=1, max_length=4)
    # Sources of one composite from several cases or sources: other contrast and sharpness in one crop.
    across_cases: bool = False
    # Masks.
    halo_level: int = Field(250, ge=2, le=255)
    core_level: int = Field(225, ge=1, le=254)
    min_pixels: int = Field(40, ge=1)
    min_core_share: float = Field(0.4, ge=0.0, le=1.0)
    # A crop cut at a dark level has hardly a halo: its core level falls until this share of the halo is core.
    max_core_share: float = Field(0.88, gt=0.0, le=1.0)
    # Median core greys of the sources of one composite differ by no more than this, where the case has such sources.
    max_tone_difference: float = Field(25.0, ge=0.0, le=255.0)
    canvas: int = Field(512, ge=32, le=4096)
    # Placement.
    scale: tuple[float, float] = (0.9, 1.1)
    min_contact: int = Field(5, ge=1)
    # Touching shifts are drawn with the weight contact ** power: 0 draws all equally often, real clusters lie closer.
    contact_power: float = Field(3.0, ge=0.0, le=8.0)
    max_halo_overlap: int = Field(60, ge=0)
    max_halo_overlap_share: float = Field(0.1, ge=0.0, le=1.0)
    min_core_overlap_share: float = Field(0.04, gt=0.0, le=1.0)
    max_core_overlap_share: float = Field(0.35, gt=0.0, le=1.0)
    min_angle: float = Field(25.0, ge=0.0, le=90.0)
    # Haloes that go on meeting further than this from the shared core lie alongside: a second contact.
    contact_reach: int = Field(12, ge=1, le=512)
    # No blend gets darker than this, unless the case's own crops do (a scanner's black).
    floor: int = Field(40, ge=0, le=254)
    drawn: DrawnSettings = DrawnSettings()
    tries: int = Field(8, ge=1, le=1000)  # shifts tried for one pair
    source_tries: int = Field(16, ge=1, le=1000)  # sets of sources tried for one composite

    @model_validator(mode="after")
    def _ordered(self) -> "ComposeSettings":
        if self.core_level >= self.halo_level:
            raise ValueError("core_level must be below halo_level")
        if self.min_core_overlap_share >= self.max_core_overlap_share:
            raise ValueError("min_core_overlap_share must be below max_core_overlap_share")
        if not 0.25 <= self.scale[0] <= self.scale[1] <= 4.0:
            raise ValueError("scale must be two rising numbers within 0.25 to 4")
        for name in ("target_shares", "relation_mix"):
            weights = getattr(self, name)
            if weights is not None and (min(weights.values(), default=0.0) < 0 or sum(weights.values()) <= 0):
                raise ValueError(f"{name} needs weights of 0 or more with a positive sum")
        if min(self.chain_shares) < 0 or sum(self.chain_shares) <= 0:
            raise ValueError("chain_shares needs shares of 0 or more with a positive sum")
        return self


class ValidateComposedSettings(Section):
    """Limits of the expectations on composed crops; ``stop`` and ``warn`` change what a rule does when it fails."""

    max_missing: float = Field(0.1, ge=0.0, le=1.0)  # share of the asked composites of a type that may be missing
    # Longest side of a composite, in longest sides of the training crops.
    max_side_ratio: float = Field(2.5, ge=1.0, le=10.0)
    warn: list[str] = Field(default_factory=list)
    stop: list[str] = Field(default_factory=list)


class TuneSettings(Section):
    """The Optuna study of margin (radians) and temperature, and of other settings of pre-training where asked."""

    trials: Annotated[int, NO_EFFECT] = Field(4, ge=1, le=10_000)  # more trials go on with the same study
    workers: Annotated[int, NO_EFFECT] = Field(1, ge=1, le=256)
    margin: Annotated[tuple[float, float], _rising(0.0, 1.5)] = Field(
        (0.0, 0.6), description="two rising numbers within 0.0 to 1.5"
    )
    temperature: Annotated[tuple[float, float], _rising(0.01, 1.0)] = Field(
        (0.07, 0.3), description="two rising numbers within 0.01 to 1.0"
    )
    # Further numbers of the section pretrain, such as {queue_size: [256, 1024], momentum_end: [0.99, 0.999]}.
    space: dict[str, tuple[float, float]] = Field(
        default_factory=dict, description="numbers of the section pretrain, each with two rising numbers"
    )
    pretrain_epochs: int = Field(2, ge=0)
    finetune_epochs: int = Field(2, ge=1)
    seeds: int = Field(1, ge=1, le=100)  # trainings per trial, each with another seed; the trial's value is their mean
    # What a trial measures: validation macro sensitivity after fine-tuning, or of a linear probe after pre-training.
    objective: Literal["finetune", "probe"] = "finetune"
    # Trials drawn at random (the baseline counts) before the sampler learns from them and before any is pruned.
    startup_trials: int = Field(5, ge=1, le=1000)
    prune: bool = True
    # An SQLAlchemy address that all workers and machines share; none means an sqlite file in the state folder.
    storage: Annotated[str | None, NO_EFFECT] = None
    # Name of the study; none means the hash of all that determines it.
    study: Annotated[str | None, NO_EFFECT] = Field(None, min_length=1, max_length=200)


class PretrainSettings(Section):
    """Supervised contrastive pre-training with the self-margin loss."""

    epochs: int = Field(10, ge=0, le=10_000)
    batch_size: int = Field(64, ge=2, le=65_536)
    accumulate: int = Field(1, ge=1, le=1024)
    loss: Literal["unified", "supcon_out"] = "unified"
    margin_on: Literal["none", "self", "all"] = "self"
    margin: float = Field(0.4, ge=0.0, lt=1.5707)
    margin_warmup: float = Field(0.15, ge=0.0, le=1.0)
    temperature: float = Field(0.2, ge=0.01, le=1.0)
    queue_size: int = Field(512, ge=2, le=1_000_000)
    momentum_start: float = Field(0.95, ge=0.0, lt=1.0)
    momentum_end: float = Field(0.99, ge=0.0, le=1.0)
    projection: int = Field(128, ge=2, le=4096)
    learning_rate: float = Field(0.1, gt=0.0, le=100.0)  # for 256 crops a step, scaled with their number
    weight_decay: float = Field(1e-4, ge=0.0, le=1.0)
    warmup: float = Field(0.1, ge=0.0, lt=1.0)
    min_instance_share: float = Field(0.25, ge=0.0, le=1.0)
    balance: float = Field(1.0, ge=0.0, le=1.0)  # 0 draws types as often as they occur, 1 equally often
    # Share of the epochs, the first, on drawn crops alone; the others then leave those out. None: all in every epoch.
    drawn_first: float | None = Field(None, ge=0.0, le=1.0)
    watch_crops: int = Field(512, ge=0, le=1_000_000)  # crops for probe, kNN and pictures; 0 leaves them out

    @model_validator(mode="after")
    def _queue_holds_a_batch(self) -> "PretrainSettings":
        if self.queue_size < self.batch_size:
            raise ValueError(f"queue_size {self.queue_size} must be at least batch_size {self.batch_size}")
        return self


class FinetuneSettings(Section):
    """Cross-entropy fine-tuning of the pre-trained encoder, or joint training: head first, then all layers."""

    epochs: int = Field(10, ge=1, le=10_000)
    head_epochs: int = Field(1, ge=0, le=10_000)
    real_epochs: int = Field(0, ge=0, le=10_000)  # further epochs, on real crops without composites
    batch_size: int = Field(64, ge=2, le=65_536)
    learning_rate: float = Field(0.05, gt=0.0, le=100.0)  # for 64 crops a step, scaled with their number
    head_learning_rate: float = Field(0.01, gt=0.0, le=100.0)
    real_learning_rate: float = Field(0.01, gt=0.0, le=100.0)
    weight_decay: float = Field(1e-4, ge=0.0, le=1.0)
    warmup: float = Field(0.1, ge=0.0, lt=1.0)
    label_smoothing: float = Field(0.1, ge=0.0, lt=1.0)
    min_instance_share: float = Field(0.25, ge=0.0, le=1.0)
    balance: float = Field(1.0, ge=0.0, le=1.0)  # 0 draws types as often as they occur, 1 equally often
    use_composed: bool = True
    # Of the contrastive loss beside cross-entropy, until the epochs on real crops; its settings are those of pretrain.
    contrastive_weight: float = Field(0.0, ge=0.0, le=100.0)
    drawn_first: float | None = Field(None, ge=0.0, le=1.0)  # as in pretrain; of `epochs`
    average: float = Field(0.99, ge=0.0, lt=1.0)  # decay of the averaged weights per step, 0 averages nothing
    test_views: Literal[1, 2, 4, 8] = 8  # symmetries of the square averaged at prediction


class EvaluateSettings(Section):
    """Intervals and calibration of the evaluation."""

    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    bootstrap: int = Field(1000, ge=0, le=1_000_000)
    seed: int = Field(42, ge=0, lt=2**31)
    reliability_bins: int = Field(15, ge=2, le=1000)


class AblationSettings(Section):
    """The comparison of recipes: rows, sweeps, seeds and folds of one table."""

    # Names of rows, see docs/evaluation.md; all of them.
    rows: list[str] = Field(
        default=[
            "forest", "ce", "ce_long", "ce_composition", "ce_composition_long", "supcon_out", "unified",
            "unified_composition", "unified_margin", "supcam", "supcam_all", "joint", "supcam_joint",
        ],
        min_length=1,
    )  # fmt: skip
    # Settings to vary one at a time in the row sweep_row, such as {pretrain.margin: [0.0, 0.2, 0.4]}.
    sweeps: dict[str, list[Any]] = Field(default_factory=dict)
    sweep_row: str = "supcam"
    seeds: int = Field(1, ge=1, le=100)  # runtime.seed and the following
    folds: int = Field(0, ge=0, le=100)  # grouped folds over all crops; 0 judges the test part of the split
    workers: Annotated[int, NO_EFFECT] = Field(1, ge=1, le=256)  # processes, each with runtime.threads threads
    reference: str = "ce_composition"  # row that the others are compared with
    figure: Literal["macro_sensitivity", "accuracy"] = "macro_sensitivity"

    @model_validator(mode="after")
    def _folds_divide(self) -> "AblationSettings":
        if self.folds == 1:
            raise ValueError("folds must be 0 (the split's own parts) or at least 2")
        if len(set(self.rows)) < len(self.rows):
            raise ValueError("rows must not name a row twice")
        return self


class CheckSettings(Section):
    """Model tests of ``supcam check``: how strongly crops are changed, and the share that must keep its answer."""

    crops: int = Field(400, ge=1, le=1_000_000)  # spread evenly over the test crops
    seed: int = Field(42, ge=0, lt=2**31)
    angles: int = Field(3, ge=1, le=360)  # rotations of each crop
    brightness: float = Field(0.1, gt=0.0, lt=1.0)  # change of optical density, either way
    blur: float = Field(0.5, gt=0.0, le=5.0)  # standard deviation in pixels
    padding: list[float] = Field(default=[0.1, 0.25], min_length=1)  # white frame, in longest sides of the crop
    composites: int = Field(60, ge=1, le=100_000)  # of each cell of the algebra
    min_unchanged: float = Field(0.97, ge=0.0, le=1.0)  # under rotations and flips
    min_brightness_kept: float = Field(0.95, ge=0.0, le=1.0)
    min_blur_kept: float = Field(0.95, ge=0.0, le=1.0)
    min_single_kept: float = Field(1.0, ge=0.0, le=1.0)  # singles never become clusters by padding
    min_algebra: float = Field(0.7, ge=0.0, le=1.0)  # composites are harder than most real clusters
    resaved: int = Field(24, ge=0, le=1_000_000)  # crops saved again in every kind; 0 leaves that check out
    # Of crops saved again, the share whose type stays or that goes to review: kinds that change nothing, and doubtful.
    min_resaved_same: float = Field(0.99, ge=0.0, le=1.0)
    min_resaved_doubtful: float = Field(0.97, ge=0.0, le=1.0)

    @model_validator(mode="after")
    def _frames_are_frames(self) -> "CheckSettings":
        if not all(0.0 < share <= 4.0 for share in self.padding):
            raise ValueError("padding needs shares above 0 and up to 4")
        return self


class PromoteSettings(Section):
    """The promotion rule: the metric that must not fall, by how much it may, and floors per type."""

    model_name: str = Field("supcam", min_length=1, pattern=r"^[^/:@]+$")
    figure: Literal["macro_sensitivity", "accuracy"] = "macro_sensitivity"
    margin: float = Field(0.02, ge=0.0, le=1.0)  # how far a type's sensitivity may fall
    min_sensitivity: float = Field(0.0, ge=0.0, le=1.0)
    floors: dict[Literal["instance", "touching", "overlapping", "touching-overlapping"], float] = Field(
        default_factory=dict  # sensitivity of single types, instead of min_sensitivity
    )
    min_test_crops_per_type: int = Field(3, ge=1)  # a type with fewer is not compared, and its floor not judged
    # Result of supcam.experiments.folds, such as reports/folds/folds.json, for floors of types with too few test crops.
    folds: str | None = Field(None, min_length=1)
    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    bootstrap: int = Field(2000, ge=100, le=1_000_000)
    seed: int = Field(42, ge=0, lt=2**31)
    max_calibration_error: float = Field(0.3, ge=0.0, le=1.0)
    max_parity_difference: float = Field(1e-4, gt=0.0, le=1.0)
    max_latency_ms: float = Field(500.0, gt=0.0)  # one crop on one thread, median
    allow_stored_answers: bool = False  # whether answers stored in a package may stand in for crops that are not there
    # Of the crops of each type, the share that may be answered as another type without review.
    review_risk: float | None = Field(0.15, gt=0.0, lt=0.5)
    review_coverage: float = Field(0.9, gt=0.0, le=1.0)  # share of crops that is answered where review_risk is null
    unlike_share: float = Field(0.01, gt=0.0, le=0.2)  # of validation crops that count as unlike the training crops
    # A command that gets each promotion, refusal and rollback as JSON: one line, or a list of its words; no shell.
    notify: Annotated[str | list[str] | None, NO_EFFECT] = Field(
        None, description="one line such as python tell.py --to us, a list of words, or null"
    )
    notify_timeout: Annotated[float, NO_EFFECT] = Field(30.0, gt=0.0, le=3600.0)  # seconds

    @field_validator("notify")
    @classmethod
    def _is_a_command(cls, value: str | list[str] | None) -> str | list[str] | None:
        words = shlex.split(value) if isinstance(value, str) else value
        if words is not None and not (words and words[0]):
            raise ValueError("a command of at least one word")
        return value

    @model_validator(mode="after")
    def _floors_are_shares(self) -> "PromoteSettings":
        for label, floor in self.floors.items():
            if not 0.0 <= floor <= 1.0:
                raise ValueError(f"floors.{label} must be within 0 to 1, got {floor}")
        return self


class WatchLimits(Section):
    """How far answers may move from the reference, as distances from 0 to 1, before chance is even asked."""

    types: float = Field(0.1, ge=0.0, le=1.0)
    confidence: float = Field(0.1, ge=0.0, le=1.0)
    review: float = Field(0.05, ge=0.0, le=1.0)
    unlike: float = Field(0.03, ge=0.0, le=1.0)


class WatchSettings(Section):
    """When ``supcam watch`` raises an alarm: beyond a limit, and too far for chance."""

    false_alarms: float = Field(0.05, gt=0.0, lt=1.0)  # share of quiet weeks with an alarm, at most
    limits: WatchLimits = WatchLimits()
    min_crops: int = Field(30, ge=1)  # smaller groups (of a case, source or day) are not compared
    seed: int = Field(42, ge=0, lt=2**31)


class Settings(Section):
    """All of ``params.yaml``; sections are named like the stages."""

    profile: Annotated[str, NO_EFFECT] = "sample"
    runtime: RuntimeSettings = RuntimeSettings()
    input: InputSettings = InputSettings()
    model: ModelSettings = ModelSettings()
    validate_: ValidateSettings = Field(ValidateSettings(), alias="validate")
    split: SplitSettings = SplitSettings()
    compose: ComposeSettings = ComposeSettings()
    validate_composed: ValidateComposedSettings = ValidateComposedSettings()
    tune: TuneSettings = TuneSettings()
    pretrain: PretrainSettings = PretrainSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    check: CheckSettings = CheckSettings()
    ablation: AblationSettings = AblationSettings()
    promote: PromoteSettings = PromoteSettings()
    watch: WatchSettings = WatchSettings()

    @model_validator(mode="after")
    def _head_alone_leaves_epochs(self) -> "Settings":
        head, epochs = self.finetune.head_epochs, self.finetune.epochs
        if self.pretrain.epochs and head >= epochs:
            raise SettingError("finetune.head_epochs", head, f"fewer than finetune.epochs, {epochs}")
        return self

    @model_validator(mode="after")
    def _something_is_drawn(self) -> "Settings":
        compose = self.compose
        drawn = compose.count and compose.drawn.looks and compose.drawn.share
        for name, section in (("pretrain", self.pretrain), ("finetune", self.finetune)):
            if section.drawn_first and not drawn:
                allowed = "empty or 0 unless compose.count, compose.drawn.looks and compose.drawn.share are above 0"
                raise SettingError(f"{name}.drawn_first", section.drawn_first, allowed)
        return self

    @model_validator(mode="after")
    def _space_is_of_pretrain(self) -> "Settings":
        for name, bounds in self.tune.space.items():
            allowed = None
            if name not in TUNABLE:
                allowed = f"numbers of the section pretrain: {', '.join(TUNABLE)}"
            elif not bounds[0] <= bounds[1]:
                allowed = "two rising numbers"
            for bound in bounds if allowed is None else ():
                try:
                    PretrainSettings.model_validate(self.pretrain.model_dump() | {name: bound})
                except ValidationError as error:
                    allowed = _allowed(error.errors()[0], _located(error.errors()[0]["loc"], PretrainSettings)[1])
            if allowed is not None:
                raise SettingError(f"tune.space.{name}", list(bounds), allowed)
        return self


def without_effect(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[str]:
    """Names of the settings that are marked, where they are declared, as changing no result."""
    for key, field in model.model_fields.items():
        name = f"{prefix}{field.alias or key}"
        if NO_EFFECT in field.metadata:
            yield name
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from without_effect(field.annotation, f"{name}.")


# Numbers of the section pretrain that a study may search; margin, temperature and epochs have settings of their own.
TUNABLE = tuple(
    name
    for name, field in PretrainSettings.model_fields.items()
    if field.annotation in (int, float) and name not in ("margin", "temperature", "epochs", "watch_crops")
)


def is_whole(name: str) -> bool:
    """Whether a setting of pretrain that a study may search is a whole number."""
    return PretrainSettings.model_fields[name].annotation is int


def load_settings(path: Path, overrides: dict[str, str] | None = None) -> Settings:
    """Read ``params.yaml`` and apply ``section.key`` overrides (values as YAML text).

    Raises:
        UsageError: when the file is missing or not YAML.
        SettingError: for an unknown key or a value out of range; the message names key, value and range.
    """
    if not path.is_file():
        raise UsageError(f"settings file {path} does not exist. Run in the project root, or: supcam profile sample")
    values = read_yaml(path.read_bytes(), f"settings file {path}") or {}
    if not isinstance(values, dict):
        raise UsageError(f"settings file {path} must hold sections, found {type(values).__name__}. Correct it.")
    for name, text in (overrides or {}).items():
        _override(values, name, text)
    return parse_settings(values)


class _Loader(yaml.SafeLoader):
    """Safe values only; a key twice in one mapping is an error, of which YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping, its keys each once."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.value in lines and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} stands in line {lines[key.value]} already",
                    problem_mark=key.start_mark,
                )
            lines[str(key.value)] = line
        return super().construct_mapping(node, deep)


_DEPTH = 20


def read_yaml(content: bytes, where: str) -> Any:
    """Values of a YAML text in UTF-8.

    Raises:
        UsageError: naming ``where`` and the line: for another encoding, what is not YAML, a key that stands twice in
            one mapping, or mappings nested deeper than any settings are.
    """
    try:
        text = content.decode("utf-8-sig")
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEPTH:
                deep = event.start_mark.line + 1 if event.start_mark else 1
                raise UsageError(f"{where} line {deep} is nested more than {_DEPTH} levels deep. Correct it.")
        return yaml.load(text, Loader=_Loader)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        utf16 = content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        found = "is UTF-16" if utf16 else f"line {line} is not UTF-8"
        raise UsageError(f"{where}: {found}. Save it as UTF-8.") from None
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1} " if error.problem_mark else ""
        raise UsageError(f"{where} {place}is not valid YAML: {error.problem}. Correct it.") from None
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise UsageError(f"{where} is not valid YAML: {' '.join(str(error).split())}. Correct it.") from None


def parse_settings(values: dict[str, Any]) -> Settings:
    """Check a mapping of sections.

    Raises:
        SettingError: for the first unknown key or value out of range.
    """
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise _readable(error) from None


_OPTION = "Correct the option."


def _override(values: dict[str, Any], name: str, text: str) -> None:
    *sections, key = name.split(".")
    target = values
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise SettingError(name, text, "a section and a key such as pretrain.epochs", _OPTION)
    try:
        target[key] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise SettingError(name, text, "a value in YAML, such as 5, 0.1, [0.0, 0.6] or text", _OPTION) from None


def _readable(error: ValidationError) -> SettingError:
    first = error.errors()[0]
    location, value = first["loc"], first["input"]
    section, schema = _located(location)
    name = ".".join(map(str, location)) or "params.yaml"
    known = ", ".join(sorted(section.model_json_schema()["properties"]))
    if first["type"] == "extra_forbidden":
        return SettingError(name, value, f"the keys {known}", "Remove or rename the key.")
    if first["type"] == "model_type":
        return SettingError(name, value, f"a section with the keys {known}")
    allowed = _allowed(first, schema)
    if schema is None and isinstance(value, dict):
        # Settings that contradict each other: show these and not the whole section.
        words = set(re.findall(r"\w+", allowed))
        value = {key: item for key, item in value.items() if key in words}
    return SettingError(name, value, allowed)


def _located(
    location: tuple[int | str, ...], section: type[BaseModel] = Settings
) -> tuple[type[BaseModel], dict[str, Any] | None]:
    """The section at or above a location, and the JSON schema of its setting there; None for the section itself."""
    for part in location:
        by_name = {field.alias or key: field.annotation for key, field in section.model_fields.items()}
        inner = by_name.get(str(part))
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            section = inner
        elif part in by_name:
            return section, section.model_json_schema()["properties"][part]
    return section, None


def _allowed(error: ErrorDetails, schema: dict[str, Any] | None) -> str:
    # Of lists and mappings the schema says little, unless it is described: pydantic names what is wrong inside.
    if schema and ("description" in schema or schema.get("type") not in ("array", "object")):
        return allowed_values(schema)
    return error["msg"].removeprefix("Value error, ")


_LIMITS = {
    "minimum": ">= {}",
    "exclusiveMinimum": "> {}",
    "maximum": "<= {}",
    "exclusiveMaximum": "< {}",
    "multipleOf": "a multiple of {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "pattern": "matching {}",
}


def allowed_values(schema: dict[str, Any]) -> str:
    """What a setting may be, in words, from its JSON schema: the whole range, not only the bound that was broken."""
    if "description" in schema:
        return str(schema["description"])
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return " or ".join(allowed_values(option) for option in schema["anyOf"])
    limits = [text.format(schema[key]) for key, text in _LIMITS.items() if key in schema]
    return f"{schema.get('type', '')} {' and '.join(limits)}".strip()


_PROFILES = Path(__file__).parent / "profiles"
PROFILES: tuple[str, ...] = tuple(sorted(file.stem for file in _PROFILES.glob("*.yaml")))


def profile_path(name: str) -> Path:
    """File of a named profile.

    Raises:
        UsageError: for a profile that does not exist.
    """
    if name not in PROFILES:
        raise UsageError(f"profile {name!r} does not exist; allowed are {', '.join(PROFILES)}.")
    return _PROFILES / f"{name}.yaml"


def save_settings(settings: Settings, path: Path) -> None:
    """Write every setting, defaults included, in the form of ``params.yaml``."""
    values = settings.model_dump(mode="json", by_alias=True)
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def with_best_params(settings: Settings, path: Path) -> Settings:
    """The settings with the margin, temperature and whatever else of pretrain a study found.

    Raises:
        UsageError: when the file is missing or holds something else.
        SettingError: for a value out of the range of its setting.
    """
    if not path.is_file():
        raise UsageError(f"tuned values {path} do not exist. Run: dvc repro tune")
    found = read_yaml(path.read_bytes(), f"tuned values {path}")
    needed = {"margin", "temperature"}
    if not isinstance(found, dict) or not needed <= set(found) <= needed | set(TUNABLE):
        raise UsageError(
            f"{path} must hold margin and temperature, and may hold {', '.join(TUNABLE)}. Run: dvc repro tune"
        )
    values = settings.model_dump(by_alias=True)
    values["pretrain"] |= found
    try:
        return parse_settings(values)
    except SettingError as error:
        raise SettingError(str(path), found, str(error), "Run: dvc repro tune") from None
