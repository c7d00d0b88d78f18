"""Composites: valid images, proper labels, one function of (seed, index)."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from supcam.cluster_type import ClusterType, Relation
from supcam.composition.assembly import blend
from supcam.composition.composer import Composer, Composite, Skipped, _snapped
from supcam.composition.masks import EIGHT
from supcam.composition.sampling import BOTH_CELLS, CELLS, Cell, Plan, Policy
from supcam.composition.sources import SourceCrops
from supcam.errors import SettingError
from supcam.settings import ComposeSettings
from supcam.synthetic.chromosome import Drawing
from supcam.synthetic.sample import draw_crops
from tests.composition.label_proof import Outline, composites_of, outlines_in, run_label_proof, true_types
from tests.composition.test_blend import greys
from tests.composition.test_masks import BAD

I, T, O, TO = ClusterType  # noqa: E741


@pytest.fixture(scope="module")
def composer(crops: SourceCrops) -> Composer:
    return Composer(crops, ComposeSettings(), keep_masks=True)


@pytest.fixture(scope="module")
def composites(composer: Composer) -> list[Composite]:
    made = [composer.compose(3, index) for index in range(120)]
    kept = [one for one in made if isinstance(one, Composite)]
    assert len(kept) > 100
    return kept


def test_there_are_twenty_cells_and_fourteen_give_touching_overlapping() -> None:
    assert len(CELLS) == 20
    assert sum(cell.target is TO for cell in CELLS) == 14
    assert all(Cell.parse(cell.label) == cell for cell in (*CELLS, *BOTH_CELLS))
    assert Cell.parse("touching + instance:overlap") == Cell(I, T, Relation.OVERLAP)


@pytest.mark.parametrize("text", ["", "instance:touch", "instance+instance", "a+b:touch", "instance+touching:near"])
def test_a_wrong_cell_names_the_setting(text: str) -> None:
    with pytest.raises(SettingError, match=r"compose\.cells"):
        Cell.parse(text)


def test_images_are_one_component_on_pure_white(crops: SourceCrops, composites: list[Composite]) -> None:
    darkest = min(image.min() for image in crops.images)
    for made in composites:
        assert made.image.dtype == np.uint8
        assert ndimage.label(made.image < 250, EIGHT)[1] == 1
        assert made.masks is not None
        outside = ~ndimage.binary_dilation(made.masks[:-1].any(axis=0), EIGHT)
        assert (made.image[outside] == 255).all()
        assert made.image[~outside].min() >= darkest


def test_masks_show_the_relation(composites: list[Composite]) -> None:
    for made in composites:
        assert made.masks is not None
        np.testing.assert_array_equal(made.masks[:-1].any(axis=0), made.image < 250)
        assert not (made.masks[-1] & (made.masks[:-1].sum(axis=0) < 2)).any()
        assert len(made.masks) == len(made.parents) + 1
        assert bool(made.masks[-1].any()) == bool(made.relation & Relation.OVERLAP)
        assert made.type == made.relation  # of single chromosomes


def test_sources_are_different_crops_of_one_case(composites: list[Composite]) -> None:
    for made in composites:
        assert len(set(made.parents)) == len(made.parents)
        assert {parent.split("-")[0] for parent in made.parents} == {made.group}


def test_sources_of_several_cases_when_asked_for(crops: SourceCrops) -> None:
    composer = Composer(crops, ComposeSettings(across_cases=True))
    made = [composer.compose(1, index) for index in range(12)]
    mixed = [one for one in made if isinstance(one, Composite) and len({p.split("-")[0] for p in one.parents}) > 1]
    assert mixed


def test_a_composite_depends_on_seed_and_index_alone(crops: SourceCrops, composer: Composer) -> None:
    again = Composer(crops, ComposeSettings())
    for index in (17, 3, 9):
        first, second = composer.compose(5, index), again.compose(5, index)
        assert isinstance(first, Composite) and isinstance(second, Composite)
        np.testing.assert_array_equal(first.image, second.image)
        assert first.parents == second.parents
    other = composer.compose(6, 17)
    assert isinstance(other, Composite)
    assert other.image.shape != first.image.shape or (other.image != first.image).any()


def test_placement_is_recorded_exactly(drawn: tuple[SourceCrops, list[Drawing]], composites: list[Composite]) -> None:
    """The halo of the drawing, carried along by the recorded matrix, lies on the halo in the composite."""
    for made in composites[:20]:
        assert made.masks is not None
        for placed, mask in zip(made.placed, made.masks, strict=False):
            shape = (made.image.shape[0], made.image.shape[1])
            _, halo = Outline(drawn[1][placed.row]).seen_in(placed).masks(shape)
            assert np.count_nonzero(halo & mask) >= 0.93 * np.count_nonzero(halo | mask)


def test_chains_hold_up_to_five(crops: SourceCrops) -> None:
    composer = Composer(crops, ComposeSettings())
    cell = Cell(I, I, Relation.TOUCH)
    lengths = Counter(
        len(made.parents)
        for index in range(12)
        if isinstance(made := composer.compose_plan(Plan(cell, 5), np.random.default_rng(index)), Composite)
    )
    assert lengths[5] >= 6
    assert set(lengths) <= {2, 3, 4, 5}


def test_every_source_bad_is_skipped_with_reasons_and_ends() -> None:
    images = [image for images in BAD.values() for image in images]
    labels = np.zeros(len(images), dtype=np.int64)
    frame = pd.DataFrame({"crop_id": [f"bad{i}" for i in range(len(images))]})
    composer = Composer(SourceCrops(frame, images, labels, ["a"] * len(images)), ComposeSettings())
    assert {reason: len(ids) for reason, ids in composer.defects.items()} == {k: len(v) for k, v in BAD.items()}
    made = composer.compose(0, 0)
    assert isinstance(made, Skipped)
    assert made.rejected == {"no-sources": 1}


def test_sources_that_cannot_be_placed_are_counted(crops: SourceCrops) -> None:
    settings = ComposeSettings(canvas=max(max(image.shape) for image in crops.images), min_contact=4000)
    composer = Composer(crops, settings)
    made = composer.compose_plan(Plan(Cell(I, I, Relation.TOUCH)), np.random.default_rng(0))
    assert isinstance(made, Skipped)
    assert made.rejected == {"no-admissible-shift": settings.source_tries}


def test_labels_agree_with_the_drawings() -> None:
    proof = run_label_proof(200, 11, cases=2, per_case=16)
    assert proof["cases"] == 480
    assert proof["pairs_wrong"] == 0, proof["wrong"]
    assert float(str(proof["chains_correct"])) >= 0.98, proof["wrong"]  # 1 of 181 is 0.6 %: the full count decides


def test_bodies_of_a_touching_pair_share_no_pixel_even_where_cores_lost_one() -> None:
    # Found among 6,892 pairs: both bodies reached a pixel beyond their warped cores, the same one.
    crops, drawings = draw_crops(8, 20, 123)
    plan = Plan(Cell.parse("instance+instance:touch"), 2)
    made = Composer(crops, ComposeSettings()).compose_plan(plan, np.random.default_rng((9, 2608)))
    assert isinstance(made, Composite)
    assert true_types(outlines_in(made, [[Outline(drawing)] for drawing in drawings]), made.image.shape) == {made.type}


def bars(gap: int | None, bridge: int = 0) -> np.ndarray:
    """Two bars with soft edges, ``gap`` white pixels apart, joined by a bridge of one pixel where one is asked for."""
    image = np.full((48, 60), 255, dtype=np.uint8)
    for left in (10, 22 + (gap or 0)):
        image[7:41, left : left + 12] = 235
        image[8:40, left + 1 : left + 11] = 120
    if bridge:
        image[24, 22 : 22 + (gap or 0)] = bridge
    return image


def crossing_and_crumb() -> np.ndarray:
    """Two crossing bars, and a third chromosome of 6 % of their area joined to them by two faint pixels."""
    image = np.full((60, 80), 255, dtype=np.uint8)
    image[7:49, 19:31] = image[21:33, 7:43] = image[8:14, 32:40] = 235
    image[8:48, 20:30] = image[22:32, 8:42] = image[9:13, 33:39] = 120
    image[11, 31:33] = 249
    return image


def cluster_sources(crops: SourceCrops, image: np.ndarray) -> SourceCrops:
    """The drawn instances of one case, and one crop labelled touching among them."""
    rows = [row for row, group in enumerate(crops.groups) if group == crops.groups[0]]
    frame = pd.concat([crops.frame.iloc[rows], pd.DataFrame({"crop_id": ["cluster"]})], ignore_index=True)
    images = [*(crops.images[row] for row in rows), image]
    labels = np.array([0] * len(rows) + [ClusterType.TOUCHING])
    return SourceCrops(frame, images, labels, [crops.groups[0]] * len(images))


def test_a_cluster_in_pieces_is_not_a_source(crops: SourceCrops) -> None:
    # Only its largest piece would be composed, under the type of the whole.
    apart, joined = (Composer(cluster_sources(crops, bars(gap)), ComposeSettings()) for gap in (2, 0))
    assert apart.defects == {"several-components": ["cluster"]}
    assert joined.defects == {}


def test_a_cluster_that_a_warp_breaks_is_refused_and_counted(crops: SourceCrops) -> None:
    composer = Composer(cluster_sources(crops, bars(2, bridge=249)), ComposeSettings())
    assert composer.defects == {}
    plan, rejected = Plan(Cell.parse("instance+touching:touch"), 2), Counter[str]()
    for attempt in range(12):
        made = composer.compose_plan(plan, np.random.default_rng(attempt))
        rejected += made.rejected
        if isinstance(made, Composite):
            cluster = next(placed for placed in made.placed if placed.crop_id == "cluster")
            assert cluster.row == len(composer) - 1
    assert rejected["fell-apart"] > 0


def test_a_cluster_that_a_warp_robs_of_a_small_chromosome_is_refused(crops: SourceCrops) -> None:
    # A tenth of the area could go unnoticed, and with it the touch that the type of the whole counts.
    composer = Composer(cluster_sources(crops, crossing_and_crumb()), ComposeSettings())
    assert composer.defects == {}
    row, rng, rejected = len(composer) - 1, np.random.default_rng(0), Counter[str]()
    kept = [warped for _ in range(200) if (warped := composer._warped(row, rng, rejected))]
    assert rejected["fell-apart"] > 0
    for warp, body in kept:
        dark = warp.apply(composer.sources[row].sheet)[0] < 250
        assert body.halo_area >= 0.95 * np.count_nonzero(dark)


def test_composites_hold_only_grey_values_of_their_sources(crops: SourceCrops) -> None:
    # Every fourth grey value, as a stretched contrast leaves them.
    comb = [np.where(image < 250, image // 4 * 4, image).astype(np.uint8) for image in crops.images]
    sources = SourceCrops(crops.frame, comb, crops.labels, crops.groups)
    composer = Composer(sources, ComposeSettings())
    for index in range(20):
        made = composer.compose(0, index)
        assert isinstance(made, Composite)
        dark = set(np.unique(made.image[made.image < 250]).tolist())
        assert dark <= set(np.concatenate([comb[placed.row].ravel() for placed in made.placed]).tolist())
        assert (made.image == 255).mean() > 0.2


@given(greys, greys, arrays(np.bool_, 256))
def test_moved_to_the_sources_grey_values_no_pixel_is_lighter_than_either_source(a, b, held) -> None:
    held[30] = True  # some value below the halo level
    moved = [_snapped(image, held, 250) for image in (blend(a, b), a, b)]
    assert (moved[0] <= np.minimum(moved[1], moved[2])).all()


def test_no_composite_outgrows_the_canvas_with_its_margins(crops: SourceCrops) -> None:
    wide = [np.pad(image, 16, constant_values=255) for image in crops.images]
    canvas = max(max(image.shape) for image in wide)
    composer = Composer(SourceCrops(crops.frame, wide, crops.labels, crops.groups), ComposeSettings(canvas=canvas))
    made = composites_of(composer, [Plan(Cell(I, I, Relation.TOUCH), 4)], 12, 0)
    assert max(max(one.image.shape) for _, one in made) == canvas


def test_the_policy_draws_targets_variants_and_lengths_as_set() -> None:
    types, groups = [I, I, I, T, T, O, O, TO, TO] * 2, ["a"] * 9 + ["b"] * 9
    settings = ComposeSettings(
        target_shares={"touching": 1.0, "overlapping": 1.0, "touching-overlapping": 2.0},
        variant_share=0.7,
        chain_shares=[0.5, 0.5],
    )
    policy, rng = Policy(types, groups, settings), np.random.default_rng(0)
    plans = [policy.plan(rng) for _ in range(4000)]
    targets = Counter(plan.cell.target for plan in plans)
    assert targets[TO] / 4000 == pytest.approx(0.5, abs=0.03)
    for target in (T, O, TO):
        variants = [plan.cell.variant for plan in plans if plan.cell.target is target]
        assert np.mean(variants) == pytest.approx(0.7, abs=0.05)
    assert np.mean([plan.length for plan in plans]) == pytest.approx(2.5, abs=0.05)


def test_rare_types_are_composed_most_by_default() -> None:
    types = [I] * 40 + [T] * 20 + [O] * 10 + [TO] * 5
    policy, rng = Policy(types, ["a"] * len(types), ComposeSettings()), np.random.default_rng(1)
    targets = Counter(policy.plan(rng).cell.target for _ in range(3000))
    assert targets[TO] > targets[O] > targets[T] > 0


@pytest.mark.parametrize(("share", "kinds"), [(1.0, {True}), (0.0, {False})])
def test_ablation_of_variant_against_preserving_cells(share: float, kinds: set[bool]) -> None:
    policy = Policy([I, I, T, T, O, O, TO, TO], ["a"] * 8, ComposeSettings(variant_share=share))
    rng = np.random.default_rng(2)
    assert {policy.plan(rng).cell.variant for _ in range(500)} == kinds


def test_only_allowed_cells_are_drawn() -> None:
    allowed = ["instance+touching:overlap", "instance+instance:touch"]
    policy, rng = Policy([I, I, T, T], ["a"] * 4, ComposeSettings(cells=allowed)), np.random.default_rng(3)
    assert {policy.plan(rng).cell.label for _ in range(200)} == set(allowed)


@pytest.mark.parametrize(
    "cells", [None, ["instance+instance:touch", "instance+touching:touch", "touching+touching:overlap"]]
)
def test_a_relation_of_weight_zero_is_never_drawn(cells: list[str] | None) -> None:
    settings = ComposeSettings(relation_mix={"touch": 1.0, "overlap": 0.0}, cells=cells, chain_shares=[0.5, 0.5])
    policy, rng = Policy([I, I, I, T, T, T, O, O, O], ["a"] * 9, settings), np.random.default_rng(5)
    plans = [policy.plan(rng) for _ in range(300)]
    drawn = {relation for plan in plans for relation in policy.sources(plan, rng)[1]}
    assert drawn == {Relation.TOUCH}
    assert O not in {plan.cell.target for plan in plans}  # an overlapping cluster takes an overlap


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({"relation_mix": {"touch": 1.0}, "target_shares": {"overlapping": 1.0, "touching": 1.0}}, "overlapping"),
        ({"relation_mix": {"overlap": 1.0}, "cells": ["instance+instance:touch"]}, "any target"),
        (
            {"cells": ["instance+instance:touch"], "target_shares": {"touching-overlapping": 1.0}},
            "touching-overlapping",
        ),
    ],
)
def test_weights_that_make_a_target_impossible_are_refused(settings: dict[str, object], missing: str) -> None:
    with pytest.raises(SettingError, match=rf"compose\.relation_mix = .* for {missing} \(a relation of weight 0"):
        Policy([I, I, T, O], ["a"] * 4, ComposeSettings(**settings))


def test_allowed_cells_bind_every_source_of_a_chain() -> None:
    types, long = [I] * 2 + [T] * 4 + [O] * 4, [0.0, 0.0, 0.0, 1.0]
    allowed = {"instance+instance:touch", "instance+touching:overlap"}
    policy = Policy(types, ["a"] * len(types), ComposeSettings(cells=sorted(allowed), chain_shares=long))
    rng, seen = np.random.default_rng(6), Counter[str]()
    for _ in range(300):
        plan = policy.plan(rng)
        rows, relations = policy.sources(plan, rng)
        for row, relation in zip(rows[2:], relations[1:], strict=True):
            pairs = {cell.label for cell in plan.cell.paired(types[row], relation)}
            assert pairs & allowed
            seen[relation.label] += 1
        if plan.cell.target is T:
            assert len(rows) == 2  # both instances are taken, and no cell lets a cluster touch one
    assert seen["overlap"] > 0


def test_three_instances_make_both_where_only_that_cell_is_allowed() -> None:
    settings = ComposeSettings(cells=["instance+instance:both"], chain_shares=[0.0, 0.0, 1.0])
    policy, rng = Policy([I] * 6, ["a"] * 6, settings), np.random.default_rng(7)
    rows, relations = policy.sources(policy.plan(rng), rng)
    assert len(rows) == 3
    assert set(relations) == {Relation.TOUCH, Relation.OVERLAP}


def test_tones_of_one_composite_are_similar() -> None:
    tones = [100.0, 105.0, 180.0, 185.0]
    policy = Policy([I] * 4, ["a"] * 4, ComposeSettings(max_tone_difference=25.0), tones)
    rng = np.random.default_rng(4)
    pairs = {tuple(sorted(policy.sources(Plan(Cell(I, I, Relation.TOUCH)), rng)[0])) for _ in range(100)}
    assert pairs == {(0, 1), (2, 3)}


def test_a_plan_whose_third_source_is_missing_gives_nothing(crops: SourceCrops) -> None:
    """Two that touch or cross are a cluster, but not the touching-overlapping one that was asked for."""
    two = SourceCrops(crops.frame.iloc[:2], crops.images[:2], crops.labels[:2], crops.groups[:2])
    composer = Composer(two, ComposeSettings())
    made = composer.compose_plan(Plan(Cell(I, I, Relation.BOTH)), np.random.default_rng(0))
    assert isinstance(made, Skipped)
    assert made.rejected["other-relation"] > 0
