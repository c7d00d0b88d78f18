"""The batched composer's pieces agree exactly with those that work on one crop at a time."""

from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.label_proof import _batched, drawn_bank, outlines_in, true_types
from supcam.cluster_type import ClusterType, Relation
from supcam.composition.assembly import Assembly, blend
from supcam.composition.batched import assembly as batched_assembly
from supcam.composition.batched.assembly import Assemblies, Seams
from supcam.composition.batched.canvas import fitted
from supcam.composition.batched.composer import REASONS, BatchComposer, Made, Missed, _Job, _nearest, reason_of
from supcam.composition.batched.contact import FAULTS, code, meetings
from supcam.composition.batched.draws import MOST, Draws
from supcam.composition.batched.masks import Bodies, components, count, find_bodies, flooded, largest_component
from supcam.composition.batched.placement import draw_shifts, shared_areas, shift_weights, signed
from supcam.composition.batched.uniform import key_of, keys, uniforms
from supcam.composition.batched.warp import Poses, Sheets
from supcam.composition.composer import Composer, SourceCrops, _snapped
from supcam.composition.contact import Fault, meeting
from supcam.composition.masks import EIGHT, Body, Grey, Mask, core_width, find_body
from supcam.composition.masks import largest_component as largest_of_one
from supcam.composition.placement import admissible, correlate
from supcam.composition.sampling import Cell, Plan, Policy
from supcam.composition.seams import find_seam
from supcam.composition.warp import Sheet, Warp
from supcam.serving.images import letterbox, native_canvas
from supcam.settings import ComposeSettings
from tests.composition.test_composer import cluster_sources, crossing_and_crumb

I, T, O, TO = ClusterType  # noqa: E741
CPU = torch.device("cpu")
SIDE = 128
SETTINGS = ComposeSettings()


def spiral(side: int) -> Mask:
    """One long winding component: the slowest shape for labels that spread."""
    mask = np.zeros((side, side), dtype=bool)
    for ring in range(0, side // 2, 2):
        mask[ring, ring : side - ring] = mask[side - 1 - ring, ring : side - ring] = True
        mask[ring : side - ring, ring] = mask[ring : side - ring, side - 1 - ring] = True
        mask[ring + 1, ring] = False
        if ring + 2 < side // 2:
            mask[ring + 2, ring + 1] = True
    return mask


@pytest.fixture(scope="module")
def masks() -> NDArray[np.bool_]:
    rng = np.random.default_rng(0)
    random = [rng.random((40, 40)) < density for density in (0.05, 0.3, 0.4, 0.5, 0.6, 0.9) for _ in range(3)]
    twins = np.zeros((40, 40), dtype=bool)
    twins[3:6, 20:24] = twins[10:13, 2:6] = True
    return np.stack([*random, spiral(40), twins, np.zeros((40, 40), dtype=bool), np.ones((40, 40), dtype=bool)])


def test_components_are_those_of_scipy(masks: NDArray[np.bool_]) -> None:
    labels = components(torch.from_numpy(masks)).numpy()
    for found, mask in zip(labels, masks, strict=True):
        expected, number = ndimage.label(mask, EIGHT)
        names = np.unique(found[mask])[::-1]  # the first component has the highest label
        assert len(names) == number
        for rank, name in enumerate(names, start=1):
            np.testing.assert_array_equal(found == name, expected == rank)
            assert np.flatnonzero(found == name)[0] == mask.size - name
        assert (found[~mask] == 0).all()


def test_the_largest_component_is_that_of_one_mask(masks: NDArray[np.bool_]) -> None:
    for found, mask in zip(largest_component(torch.from_numpy(masks)), masks, strict=True):
        np.testing.assert_array_equal(found.numpy(), largest_of_one(mask))


def test_a_flood_reaches_what_propagation_does(masks: NDArray[np.bool_]) -> None:
    rng = np.random.default_rng(1)
    seeds = masks & (rng.random(masks.shape) < 0.02)
    found = flooded(torch.from_numpy(seeds), torch.from_numpy(masks)).numpy()
    for one, seed, mask in zip(found, seeds, masks, strict=True):
        np.testing.assert_array_equal(one, ndimage.binary_propagation(seed, mask=mask))


@pytest.fixture(scope="module")
def images(crops: SourceCrops) -> list[Grey]:
    """Drawn crops, some cut at a dark level, some with a light band in the middle, and crops of two chromosomes."""
    drawn = list(crops.images[:10])
    cut = [np.where(image < 190, image, 255).astype(np.uint8) for image in drawn[:3]]
    ringed = []
    for image in drawn[3:6]:
        middle = tuple(side // 2 for side in image.shape)
        holed = image.copy()
        holed[middle[0] - 2 : middle[0] + 2, middle[1] - 2 : middle[1] + 2] = 238
        ringed.append(holed)
    pairs = []
    for first, second in zip(drawn[6:8], drawn[8:10], strict=True):
        canvas = np.full((first.shape[0] + second.shape[0] - 16, max(first.shape[1], second.shape[1])), 255, np.uint8)
        canvas[: first.shape[0], : first.shape[1]] = first
        view = canvas[first.shape[0] - 16 :, : second.shape[1]]
        np.minimum(view, second, out=view)
        pairs.append(canvas)
    return [*drawn, *cut, *ringed, *pairs]


@pytest.fixture(scope="module")
def warps(images: list[Grey]) -> list[Warp]:
    rng = np.random.default_rng(2)
    return [Warp.draw(rng, (0.9, 1.1)) for _ in images]


@pytest.fixture(scope="module")
def warped(images: list[Grey], warps: list[Warp]) -> tuple[Bodies, list[Body]]:
    """The same warped bodies, as a batch and one by one; the last two are clusters."""
    sheets = [Sheet.of(image) for image in images]
    single = [number < len(images) - 2 for number in range(len(images))]
    alone: list[Body] = []
    for sheet, warp, one in zip(sheets, warps, single, strict=True):
        image, tail = warp.apply(sheet)
        body = find_body(image, SETTINGS, tail)
        assert body is not None
        alone.append(Body(**{**vars(body), "width": core_width(body.core), "single": one}))
    data = torch.tensor(
        [warp.inverse(*sheet.shape) for warp, sheet in zip(warps, sheets, strict=True)], dtype=torch.float64
    )
    frames = torch.tensor([warp.frame(*sheet.shape) for warp, sheet in zip(warps, sheets, strict=True)])
    image, tail = Sheets(sheets, CPU).warped(torch.arange(len(images)), data, frames, SIDE)
    width = torch.tensor([body.width for body in alone], dtype=torch.float64)
    return find_bodies(image, tail, frames, width, torch.tensor(single), SETTINGS), alone


def test_poses_are_those_of_one_warp(images: list[Grey], warps: list[Warp]) -> None:
    angle, scale = (
        torch.tensor([getattr(warp, name) for warp in warps], dtype=torch.float64) for name in ("angle", "scale")
    )
    poses = Poses(torch.tensor([warp.mirror for warp in warps]), angle, scale)
    shapes = torch.tensor([image.shape for image in images])
    assert poses.frames(shapes).tolist() == [list(w.frame(*i.shape)) for w, i in zip(warps, images, strict=True)]
    expected = torch.tensor([w.inverse(*i.shape) for w, i in zip(warps, images, strict=True)], dtype=torch.float64)
    torch.testing.assert_close(poses.inverse(shapes), expected, rtol=0, atol=1e-11)


def test_warped_bodies_are_those_of_pillow_and_scipy_pixel_for_pixel(warped: tuple[Bodies, list[Body]]) -> None:
    bodies, alone = warped
    assert any(body.cut for body in alone)
    for number, body in enumerate(alone):
        top, left, bottom, right = bodies.box[number].tolist()
        assert (top, left) == body.corner
        for name in ("image", "tail", "halo", "core"):
            found = getattr(bodies, name)[number].numpy()
            np.testing.assert_array_equal(found[top:bottom, left:right], getattr(body, name), err_msg=name)
            outside = found.copy()
            outside[top:bottom, left:right] = 255 if name in ("image", "tail") else 0
            assert (outside == (255 if name in ("image", "tail") else 0)).all()
        assert int(bodies.halo_area[number]) == body.halo_area
        assert int(bodies.core_area[number]) == body.core_area
        assert bool(bodies.cut[number]) == body.cut


def test_shared_areas_are_those_of_the_correlation(warped: tuple[Bodies, list[Body]]) -> None:
    bodies, _ = warped
    first, second = bodies.halo[:6], bodies.core[6:12]
    large = torch.zeros((6, 2 * SIDE, 2 * SIDE), dtype=torch.bool)
    large[:, :SIDE, :SIDE] = first
    found = shared_areas(large, second)
    expected = correlate(first.numpy().astype(np.float32), second.numpy().astype(np.float32)).round()
    steps = signed(torch.arange(2 * SIDE), 2 * SIDE, SIDE)
    for entry, step in enumerate(steps.tolist()):
        if -SIDE < step < SIDE:
            row = expected[:, step + SIDE - 1]
            np.testing.assert_array_equal(found[:, entry].numpy()[:, (np.arange(1 - SIDE, SIDE)) % (2 * SIDE)], row)


@pytest.mark.parametrize("relation", [Relation.TOUCH, Relation.OVERLAP])
@pytest.mark.parametrize("canvas", [512, 110])
def test_admissible_shifts_are_the_same(warped: tuple[Bodies, list[Body]], relation: Relation, canvas: int) -> None:
    bodies, alone = warped
    settings = SETTINGS.model_copy(update={"canvas": canvas})
    left, right = torch.tensor([0, 3, 11, 4, 16]), torch.tensor([5, 12, 1, 17, 9])
    weights = shift_weights(
        Assemblies.start(bodies.take(left), 2 * SIDE).body, bodies.take(right), torch.full((5,), relation), settings
    )
    seen = 0
    for number, (one, two) in enumerate(zip(left.tolist(), right.tolist(), strict=True)):
        expected = admissible(alone[one], alone[two], relation, settings)
        places = weights[number].nonzero()
        shifts = signed(places, 2 * SIDE, SIDE)
        moved = np.array(alone[one].corner) - np.array(alone[two].corner)
        found = {tuple(shift) for shift in (shifts.numpy() - moved).tolist()}
        assert found == {tuple(shift) for shift in expected.offsets.tolist()}
        seen += len(found)
        if relation is Relation.TOUCH and len(found):
            shares = np.diff(expected.edges, prepend=0.0)
            order = {tuple(shift): share for shift, share in zip(expected.offsets.tolist(), shares, strict=True)}
            total = float(weights[number].sum())
            for shift, place in zip((shifts.numpy() - moved).tolist(), places.tolist(), strict=True):
                share = float(weights[number][tuple(place)]) / total
                assert share == pytest.approx(order[tuple(shift)], rel=1e-5, abs=1e-9)
    assert seen > 0


def test_shifts_are_drawn_by_weight() -> None:
    weights = torch.zeros((1, 5, 5), dtype=torch.int64)
    weights[0, 1, 2], weights[0, 1, 4], weights[0, 3, 0] = 2, 1, 5
    u = torch.arange(8, dtype=torch.float64) / 8 + 1e-9
    drawn = draw_shifts(weights.expand(8, -1, -1), u).tolist()
    assert drawn == [[1, 2]] * 2 + [[1, 4]] + [[3, 0]] * 5


def test_meetings_are_judged_alike(warped: tuple[Bodies, list[Body]]) -> None:
    """Placements drawn around and among the admissible ones: every verdict occurs, and each is the same."""
    bodies, alone = warped
    rng = np.random.default_rng(3)
    cases = []
    for one, two in [(0, 5), (3, 12), (16, 9), (2, 17), (16, 17), (7, 4), (13, 8), (10, 11)]:
        for relation in (Relation.TOUCH, Relation.OVERLAP):
            offsets = admissible(alone[one], alone[two], relation, SETTINGS).offsets
            for offset in offsets[rng.integers(len(offsets), size=12)] if len(offsets) else []:
                for nudge in (np.zeros(2, dtype=int), rng.integers(-4, 5, size=2)):
                    cases.append((one, two, tuple((offset + nudge).tolist()), bool(rng.random() < 0.5)))
    left, right = torch.tensor([case[0] for case in cases]), torch.tensor([case[1] for case in cases])
    moved = bodies.box[left, :2] - bodies.box[right, :2]
    offset = torch.tensor([case[2] for case in cases]) + moved
    strict = torch.tensor([case[3] for case in cases])
    found = meetings(bodies.take(left), bodies.take(right), offset, SETTINGS, strict).tolist()
    seen: Counter[str] = Counter()
    for (one, two, step, hard), verdict in zip(cases, found, strict=True):
        expected = meeting(alone[one], alone[two], step, SETTINGS, strict=hard)
        number = code(expected) if isinstance(expected, Fault) else expected
        assert verdict == number, (one, two, step, hard, expected)
        seen[str(expected)] += 1
    assert {"1", "2", "graze", "not-crossing", "second-contact"} <= set(seen), seen


def test_assemblies_grow_alike(warped: tuple[Bodies, list[Body]]) -> None:
    bodies, alone = warped
    plans = [(0, (-20, 9), 5, (18, -30), 7), (3, (25, 4), 12, (-31, -12), 1)]
    left, middle, right = (torch.tensor([plan[place] for plan in plans]) for place in (0, 2, 4))
    first, then = (torch.tensor([plan[place] for plan in plans]) for place in (1, 3))
    floor = torch.full((2,), 40, dtype=torch.uint8)
    start = Assemblies.start(bodies.take(left), 3 * SIDE)
    grown = start.joined(bodies.take(middle), first, SETTINGS, floor)
    grown = grown.joined(bodies.take(right), then, SETTINGS, floor)
    for number, (one, step, two, further, three) in enumerate(plans):
        corners = [np.array(alone[place].corner) for place in (one, two, three)]
        offset = tuple((np.array(step) + corners[1] - corners[0]).tolist())
        single = Assembly.start(alone[one]).joined(alone[two], offset, SETTINGS, 40)
        # Where the frame of two begins in that of the batch: at the least corner, moved by what the join moved.
        begin = np.minimum(corners[0], corners[1] + step) - np.minimum(step, 0)
        offset = tuple((np.array(further) + corners[2] - begin).tolist())
        single = single.joined(alone[three], offset, SETTINGS, 40)
        top, left_, bottom, right_ = grown.body.box[number].tolist()
        for name in ("image", "tail", "halo", "core"):
            found = getattr(grown.body, name)[number, top:bottom, left_:right_].numpy()
            np.testing.assert_array_equal(found, getattr(single.body, name), err_msg=name)
        assert int(grown.body.core_area[number]) == single.body.core_area
        steps = np.array([member.offset for member in single.members])
        places = grown.offsets[number].numpy() + np.array(corners)
        np.testing.assert_array_equal(places - places[0], steps - steps[0])


def test_touches_in_sight_are_judged_alike(warped: tuple[Bodies, list[Body]]) -> None:
    """Three sources at offsets around one another, the last two with a seam: both verdicts occur, each is the same."""
    bodies, alone = warped
    known = {place: seam for place in (16, 17) if (seam := find_seam(alone[place], alone[place].width)) is not None}
    assert known
    rng = np.random.default_rng(8)
    cases = []
    for _ in range(150):
        one, two, three = (int(place) for place in rng.choice(len(alone), 3, replace=False))
        one = int(rng.choice([one, 16, 17]))
        if one not in (two, three):
            cases.append((one, two, three, rng.integers(-40, 41, 2), rng.integers(-40, 41, 2)))
    longest = max(len(seam) for seam in known.values())

    def seams_of(places: list[int]) -> Seams:
        points, there = np.zeros((len(places), longest, 2), np.int64), np.zeros((len(places), longest), bool)
        for row, place in enumerate(places):
            if place in known:
                count = len(known[place])
                points[row, :count], there[row, :count] = known[place] + alone[place].corner, True
        return Seams(torch.from_numpy(points), torch.from_numpy(there))

    columns = [[int(case[place]) for case in cases] for place in range(3)]
    first, then = (torch.from_numpy(np.array([case[place] for case in cases])) for place in (3, 4))
    members = [bodies.take(torch.tensor(places)) for places in columns]
    start = Assemblies.start(members[0], 3 * SIDE)
    assembly = start.joined(members[1], first, SETTINGS, torch.full((len(cases),), 40, dtype=torch.uint8))
    corner = first.clamp(max=0)
    found = assembly.shows_touch(members[:2], members[2], then - corner, [seams_of(places) for places in columns])
    verdicts = Counter[bool]()
    for (one, two, three, step, further), verdict in zip(cases, found.tolist(), strict=True):
        corners = [np.array(alone[place].corner) for place in (one, two, three)]
        sources = [replace(alone[place], seam=known.get(place)) for place in (one, two, three)]
        at = tuple((step + corners[1] - corners[0]).tolist())
        single = Assembly.start(sources[0]).joined(sources[1], at, SETTINGS, 40)
        at = tuple((further + corners[2] - corners[0] + single.members[0].offset).tolist())
        assert single.shows_touch(sources[2], at) == verdict, (one, two, three, step, further)
        verdicts[verdict] += 1
    assert min(verdicts[True], verdicts[False]) >= 20, verdicts


@pytest.mark.parametrize("seed", range(3))
def test_pixels_are_warped_to_the_same_places(seed: int, images: list[Grey], warps: list[Warp]) -> None:
    rng = np.random.default_rng(seed)
    for image, warp in zip(images, warps, strict=True):
        points = np.column_stack([rng.integers(0, side, 30) for side in image.shape])
        data = torch.tensor([warp.inverse(*image.shape)], dtype=torch.float64)
        found = Poses.points(torch.from_numpy(points)[None], data)[0]
        np.testing.assert_array_equal(found.numpy(), warp.points(points, (image.shape[0], image.shape[1])))


def test_a_batch_hides_no_touch_either() -> None:
    bank = drawn_bank(3, 16, 1)
    composer = Composer(bank.crops(), ComposeSettings(cells=["instance+touching:overlap"], source_tries=4))
    count = 0
    batched = BatchComposer(composer, "cpu")
    for cell, made in _batched(batched, composer, [Plan(Cell(I, T, Relation.OVERLAP))] * 12, 12, 0):
        assert cell.target is TO
        assert true_types(outlines_in(made, bank.outlines), (made.image.shape[0], made.image.shape[1])) == {TO}
        count += 1
    assert count == 12


def test_blending_is_the_same_for_every_pair_of_greys() -> None:
    first, second = (np.array(values, dtype=np.uint8) for values in zip(*product(range(256), repeat=2), strict=True))
    for floor in (0, 40):
        limit = torch.tensor(floor, dtype=torch.uint8)
        found = batched_assembly.blend(torch.from_numpy(first), torch.from_numpy(second), limit)
        np.testing.assert_array_equal(found.numpy(), blend(first, second, floor))


def test_grey_values_are_snapped_alike() -> None:
    rng = np.random.default_rng(4)
    held = rng.random((20, 256)) < np.linspace(0.01, 0.9, 20)[:, None]
    held[:, 100] = True
    every = np.arange(256, dtype=np.uint8)[None]
    tables = _nearest(torch.from_numpy(held[:, :250]))
    for table, greys in zip(tables, held, strict=True):
        np.testing.assert_array_equal(table.numpy(), _snapped(every, greys, 250)[0])


@pytest.mark.parametrize("size", [24, 32, 64, 96, 224])
@pytest.mark.parametrize("scale", ["letterbox", "native"])
def test_composites_fit_their_square_as_pillow_fits_them(size: int, scale: str) -> None:
    rng = np.random.default_rng(size)
    shapes = [(11, 7), (24, 24), (32, 20), (60, 33), (64, 64), (23, 70), (70, 1), (45, 64), (32, 70)]
    shapes += [(15, 320), (320, 35), (3, 192)]
    images = torch.full((len(shapes), 320, 320), 255, dtype=torch.uint8)
    for image, (height, width) in zip(images, shapes, strict=True):
        image[:height, :width] = torch.from_numpy(rng.integers(0, 256, (height, width), dtype=np.uint8))
    images[1, :5] = 255  # frames around the foreground, and no foreground at all
    images[2, :, :4] = 252
    images[4, :, 50:] = 250
    images[7] = 255
    fit = letterbox if scale == "letterbox" else native_canvas
    found = fitted(images, torch.tensor(shapes), size, scale)  # type: ignore[arg-type]
    for square, image, (height, width) in zip(found, images, shapes, strict=True):
        expected = fit(image[:height, :width].numpy(), size)
        np.testing.assert_array_equal(square.numpy() < 255, expected < 255)
        # From version 13 on Pillow makes the vertical pass first on some tall crops, and rounds in between.
        assert np.abs(square.numpy().astype(int) - expected).max() <= (1 if height > 256 else 0)


def test_numbers_depend_on_their_key_alone_and_are_uniform() -> None:
    seeds = keys(key_of(2**64 - 3, CPU), torch.arange(4000))
    u = uniforms(seeds, 5)
    assert torch.equal(u[[7, 3]], uniforms(seeds[[7, 3]], 5))
    assert u.min() >= 0 and u.max() < 1
    assert len(u.unique()) == u.numel()
    counts = torch.histc(u.float(), 20, 0, 1)
    assert ((counts - 1000).abs() < 5 * 1000**0.5).all()
    assert torch.corrcoef(u.T).fill_diagonal_(0).abs().max() < 0.08
    assert not torch.equal(u, uniforms(keys(key_of(2, CPU), torch.arange(4000)), 5))


@pytest.mark.parametrize(
    "settings",
    [
        {"chain_shares": [0.4, 0.3, 0.2, 0.1]},
        {"chain_shares": [0.5, 0.5], "relation_mix": {"touch": 3.0, "overlap": 0.0, "both": 0.0}},
        {"chain_shares": [0.0, 1.0], "cells": ["instance+instance:touch", "instance+touching:overlap"]},
        {"across_cases": True, "max_tone_difference": 12.0},
    ],
)
def test_plans_and_sources_are_drawn_as_the_policy_draws_them(settings: dict[str, object]) -> None:
    rng = np.random.default_rng(5)
    types = [int(kind) for kind in rng.choice(4, size=48, p=[0.5, 0.25, 0.15, 0.1])]
    groups = [f"case{row % 3}" for row in range(48)]
    chosen = ComposeSettings(**settings)
    tones = rng.uniform(80.0, 160.0, 48).tolist()
    policy = Policy(types, groups, chosen, tones)
    draws = Draws(policy, chosen.max_tone_difference, CPU)
    seeds = keys(key_of(6, CPU), torch.arange(3000))
    plans = draws.plans(uniforms(keys(seeds, 0), Draws.PLAN_SLOTS))
    rows, relations = draws.sources(plans, uniforms(keys(seeds, 1), Draws.SOURCE_SLOTS))
    assert rows.shape == (3000, MOST)
    found, expected = Counter[object](), Counter[object]()
    for cell, line, bits in zip(plans.cell.tolist(), rows.tolist(), relations.tolist(), strict=True):
        taken = [row for row in line if row >= 0]
        assert len(set(taken)) == len(taken) >= 2
        assert line == taken + [-1] * (MOST - len(taken))
        if not chosen.across_cases:
            assert len({groups[row] for row in taken}) == 1
        kinds = tuple(types[row] for row in taken)
        found[draws.cells[cell], kinds, tuple(bit for bit in bits if bit)] += 1
    for _ in range(3000):
        plan = policy.plan(rng)
        assert plan is not None
        one, meets = policy.sources(plan, rng)
        expected[plan.cell, tuple(types[row] for row in one), tuple(int(relation) for relation in meets)] += 1
    for outcome in found.keys() | expected.keys():
        both = found[outcome] + expected[outcome]
        assert abs(found[outcome] - expected[outcome]) <= 5 * both**0.5, outcome


def test_tones_of_one_composite_are_alike() -> None:
    policy = Policy([I] * 4, ["a"] * 4, SETTINGS, [100.0, 105.0, 180.0, 185.0])
    draws = Draws(policy, 25.0, CPU)
    seeds = keys(key_of(1, CPU), torch.arange(100))
    rows, _ = draws.sources(draws.plans(uniforms(seeds, 2) * 0), uniforms(seeds, Draws.SOURCE_SLOTS))
    assert {tuple(sorted(pair)) for pair in rows[:, :2].tolist()} == {(0, 1), (2, 3)}


def test_batched_composites_are_whole_white_around_and_of_known_types(crops: SourceCrops) -> None:
    composer = Composer(crops, ComposeSettings(chain_shares=[0.6, 0.2, 0.1, 0.1]))
    lengths: Counter[int] = Counter()
    for made in BatchComposer(composer, "cpu").compose(5, torch.arange(24)):
        assert isinstance(made, Made)
        for image, shape, rows in zip(made.images.numpy(), made.shapes.tolist(), made.rows.tolist(), strict=True):
            height, width = shape
            assert (image[height:] == 255).all() and (image[:, width:] == 255).all()
            assert ndimage.label(image < 250, EIGHT)[1] == 1
            sources = [row for row in rows if row >= 0]
            greys = set(np.concatenate([crops.images[row].ravel() for row in sources]).tolist())
            assert set(image[image < 250].tolist()) <= greys
            lengths[len(sources)] += 1
        assert made.types.tolist() == made.relations.tolist()  # of single chromosomes
    assert lengths.total() >= 22
    assert max(lengths) > 2


def test_a_composite_does_not_depend_on_its_batch(crops: SourceCrops) -> None:
    composer = BatchComposer(Composer(crops, SETTINGS), "cpu")

    def found(numbers: list[int]) -> dict[int, tuple[bytes, list[int]]]:
        images: dict[int, tuple[bytes, list[int]]] = {}
        for made in composer.compose(9, torch.tensor(numbers)):
            assert isinstance(made, Made)
            for place, image, rows in zip(made.places.tolist(), made.images, made.rows.tolist(), strict=True):
                images[numbers[place]] = (image.numpy().tobytes(), rows)
        return images

    whole = found([3, 1, 4, 15, 9, 2])
    assert len(whole) == 6
    assert found([9, 4]) == {number: whole[number] for number in (9, 4)}


def test_what_cannot_be_placed_is_missed_with_its_reason(crops: SourceCrops) -> None:
    settings = ComposeSettings(min_contact=4000, cells=["instance+instance:touch"], source_tries=2)
    (missed,) = (
        one
        for one in BatchComposer(Composer(crops, settings), "cpu").compose(0, torch.arange(3))
        if isinstance(one, Missed)
    )
    assert [reason_of(number) for number in missed.reasons.tolist()] == ["no-admissible-shift"] * 3


def test_a_cluster_that_a_warp_robs_of_a_small_chromosome_is_refused(crops: SourceCrops) -> None:
    composer = BatchComposer(Composer(cluster_sources(crops, crossing_and_crumb()), SETTINGS), "cpu")
    rows = torch.full((100, 1), len(composer._rows) - 1)
    seeds = keys(key_of(3, CPU), torch.arange(100))
    poses = Poses.draw(uniforms(seeds, Poses.SLOTS), SETTINGS.scale)
    shapes = composer._sheets.shapes[rows[:, 0]]
    frames = poses.frames(shapes)
    job = _Job(rows, rows[:, :0], rows[:, 0], poses, frames[:, None], seeds, SIDE)
    (bodies,), _, faults, _ = composer._warped(job)
    image, _ = composer._sheets.warped(rows[:, 0], poses.inverse(shapes), frames, SIDE)
    kept = faults[:, 0] == 0
    assert kept.any()
    assert {reason_of(number) for number in faults[~kept].flatten().tolist()} == {"fell-apart"}
    assert (bodies.halo_area[kept] >= 0.95 * count(image < 250)[kept]).all()


def test_no_sources_for_any_cell_ends_at_once(crops: SourceCrops) -> None:
    one = SourceCrops(crops.frame.iloc[:1], crops.images[:1], crops.labels[:1], crops.groups[:1])
    (missed,) = BatchComposer(Composer(one, SETTINGS), "cpu").compose(0, torch.arange(2))
    assert isinstance(missed, Missed)
    assert {reason_of(number) for number in missed.reasons.tolist()} == {"no-sources"}


def test_every_fault_has_a_code_of_its_own() -> None:
    assert [reason_of(code(fault)) for fault in FAULTS] == [fault.value for fault in Fault]
    assert len(set(REASONS)) == len(REASONS)
    assert int(count(torch.ones((1, 3, 4), dtype=torch.bool))) == 12
