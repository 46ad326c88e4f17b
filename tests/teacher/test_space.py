import random
from dataclasses import replace

import pytest
from pydantic import ValidationError

from jdnas.errors import ConfigError
from jdnas.presets import preset
from jdnas.teacher.settings import PhaseSettings, PoolSettings
from jdnas.teacher.space import Choice, SubnetSpace, make_space

ONE_WIDTH = (PhaseSettings(widths=(1.0,)),)


@pytest.mark.parametrize("base", ["r18", "r50", "x50_32x4d", "x101_64x4d", "mobilenet_v2", "mobilenet_v3", "lite0", "lite2"])
def test_ends_and_samples_lie_in_the_space(base: str) -> None:
    space = make_space(preset(base, 3), PoolSettings())
    largest = space.largest
    rng = random.Random(0)
    for spec in (space.smallest, *(space.sample(rng) for _ in range(20))):
        assert space.spec_of(space.choice_of(spec)) == spec
        assert all(a <= b for a, b in zip(spec.depths, largest.depths, strict=True))
        assert all(a.width <= b.width for a, b in zip(spec.stages, largest.stages, strict=True))
        assert spec.neck <= largest.neck


def test_paper_space_has_as_many_subnets_as_the_paper_says() -> None:
    unit = preset("r101", 80)
    space = SubnetSpace(unit, (2, 2, 2, 2), (3, 4, 23, 3), (1.0, 1.25, 1.5))
    assert space.size(1) == 264 * 3**5
    # The paper's "roughly 765,000" is met where the stem's width is free too, at four resolutions.
    assert replace(space, elastic_stem=True).size(4) == 264 * 3**6 * 4 == 769_824
    assert replace(SubnetSpace(preset("r18", 80), (2,) * 4, (2,) * 4, (1.0, 1.5)), elastic_stem=True).size() == 2**5  # its stem is tied


def test_mutation_changes_one_thing_by_one_step() -> None:
    space = make_space(preset("r18", 3), PoolSettings(extra_depth=1, fewer_depth=1))
    spec = space.spec_of(Choice((2, 2, 2, 2), (1.0, 1.25, 1.5, 1.0), 1.25))
    seen = set()
    for seed in range(200):
        mutated = space.mutate(spec, random.Random(seed))
        assert mutated is not None
        seen.add(mutated)
        before, after = space.choice_of(spec), space.choice_of(mutated)
        changes = [
            a != b for a, b in zip((*before.depths, *before.factors, before.neck), (*after.depths, *after.factors, after.neck), strict=True)
        ]
        assert sum(changes) == 1
        assert all(abs(a - b) <= 1 for a, b in zip(before.depths, after.depths, strict=True))
    assert seen == set(space.neighbours(spec))


def test_space_of_one_subnet_has_no_mutation() -> None:
    space = make_space(preset("r18", 3), PoolSettings(widths=(1.0,), phases=ONE_WIDTH, extra_depth=0, fewer_depth=0))
    assert space.size() == 1
    assert space.mutate(space.largest, random.Random(0)) is None


def test_foreign_spec_is_refused() -> None:
    space = make_space(preset("r18", 3), PoolSettings(widths=(1.0,), phases=ONE_WIDTH))
    with pytest.raises(ConfigError, match="neck are not in this space"):
        space.choice_of(replace(space.largest, neck=512))


def test_phases_release_the_space_from_the_top() -> None:
    space = make_space(preset("r18", 3), PoolSettings(extra_depth=2))
    assert space.released(0.0, (1.5,)).size() == 1
    half = space.released(0.5, (1.25, 1.5))
    assert half.min_depths == (3, 3, 3, 3)
    assert half.largest == space.largest
    assert space.released(1.0, space.factors) == space


@pytest.mark.parametrize("widths", [(), (1.0, -1.0), (1.0, 2.0), (1.0,)])
def test_phases_that_do_not_fit_the_pool_are_refused(widths: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError):
        PoolSettings(widths=(1.0, 1.5), phases=(PhaseSettings(widths=widths),))


@pytest.mark.parametrize(
    ("base", "elastic_stem"),
    [("r18", False), ("r50", True), ("x50_32x4d", True), ("mobilenet_v2", True), ("lite0", True), ("lite0", False)],
)
def test_every_subnet_has_a_number(base: str, elastic_stem: bool) -> None:
    space = make_space(preset(base, 3), PoolSettings(elastic_stem=elastic_stem))
    rng = random.Random(1)
    numbers = {rng.randrange(space.size()) for _ in range(30)} | {0, space.size() - 1}
    for number in numbers:
        spec = space.spec_of(space.choice_of_number(number))
        assert space.spec_of(space.choice_of_number(space.number_of(spec))) == spec
    assert space.choice_of_number(0).depths == space.min_depths
    assert space.spec_of(space.choice_of_number(space.size() - 1)) == space.largest


def test_numbers_of_a_small_space_are_all_different() -> None:
    space = SubnetSpace(preset("r50", 3), (2, 2, 2, 2), (3, 2, 3, 2), (1.0, 1.5), elastic_stem=True)
    specs = {space.spec_of(space.choice_of_number(number)) for number in range(space.size())}
    assert len(specs) == space.size() == 4 * 2**6
    assert sorted(space.number_of(spec) for spec in specs) == list(range(space.size()))


def test_elastic_stem_is_sampled_and_mutated() -> None:
    space = make_space(preset("r50", 3), PoolSettings(elastic_stem=True))
    rng = random.Random(0)
    assert {space.sample(rng).stem for _ in range(40)} == {64, 80, 96}
    assert {spec.stem for spec in space.neighbours(space.largest)} == {96, 80}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_depths": (2, 2)}, "need one number per stage"),
        ({"min_depths": (2, 2, 9, 2)}, "exceed max_depths"),
        ({"max_depths": (2, 2, 1, 2)}, "below the base's depths"),
    ],
)
def test_depths_that_do_not_fit_the_base_are_refused(settings: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_space(preset("r18", 3), PoolSettings(fewer_depth=1, **settings))  # type: ignore[arg-type]


def test_depths_can_be_given_outright() -> None:
    space = make_space(preset("r101", 80), PoolSettings(min_depths=(2, 2, 2, 2), max_depths=(3, 4, 23, 3)))
    assert space.size() == 264 * 3**5
    assert space.choice_of(preset("r50", 80)).depths == (3, 4, 6, 3)
