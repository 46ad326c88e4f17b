import random
from dataclasses import replace

import pytest
from pydantic import ValidationError

from jdnas.presets import preset
from jdnas.teacher.settings import PhaseSettings, PoolSettings
from jdnas.teacher.space import Choice, SubnetSpace, make_space

ONE_WIDTH = (PhaseSettings(widths=(1.0,)),)


@pytest.mark.parametrize("base", ["r18", "r50", "lite0"])
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
    # The paper's "about 765,000" is met by one more free width and four resolutions.
    assert space.size(4) * 3 == 769_824


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
    with pytest.raises(ValueError, match="neck are not in this space"):
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
