import random

import pytest

from jdnas.config import resolve
from jdnas.errors import ConfigError
from jdnas.pipeline.students import after, random_student, random_students
from jdnas.pipeline.tables import Space, base_of, canvases, table_plan, validation_cases
from jdnas.presets import preset
from jdnas.student.actions import ACTION_KINDS, Action, ActionRules, legal_actions, prunable_widths
from latency.blocks import blocks_of
from latency.targets import Target, load_target

CPU = load_target("cpu-ort")
RULES = ActionRules(heads=True, max_depths=(4,) * 7, prune_ratios=(0.2,))


@pytest.mark.parametrize("name", ["r18", "r50", "lite0"])
def test_random_students_are_legal_and_different(name):
    base = preset(name, 3)
    students = random_students(base, RULES, 30, seed=4)
    assert len(set(students)) == 30 and students == random_students(base, RULES, 30, seed=4) != random_students(base, RULES, 30, seed=5)
    for student in students:
        assert all(depth <= 4 or depth <= before for depth, before in zip(student.depths, base.depths, strict=True))
        for key, width in prunable_widths(student).items():
            assert width >= 8 and (width % 8 == 0 or width in prunable_widths(base).values()), key
    assert len({student.depths for student in students}) > 3


def test_every_legal_action_changes_a_spec():
    base = preset("r18", 3)
    for action in legal_actions(base, RULES):
        changed = after(base, action, RULES, random.Random(0))
        assert changed != base
        if action.kind == "prune_layer":
            assert sum(changed.depths) == sum(base.depths) - 1
        elif action.kind == "add_layer":
            assert sum(changed.depths) == sum(base.depths) + 1
        elif action.kind == "rearrange":
            assert sum(changed.depths) == sum(base.depths) and changed.depths != base.depths
        elif action.kind in ACTION_KINDS:
            widths = prunable_widths(changed)
            assert all(widths[key] <= width for key, width in prunable_widths(base).items())


def test_a_move_goes_where_it_is_told():
    base = preset("r18", 3)
    changed = after(base, Action("rearrange", stage=1, target=2), RULES, random.Random(0))
    assert changed.depths == (2, 1, 3, 2)
    assert random_student(base, RULES, random.Random(1)).num_classes == 3


def test_canvases():
    quick = resolve("quick", {"base": "r18", "data_settings": {"long_sides": [192, 256], "shapes_size": 128}})
    assert canvases(quick, ()) == [(256, 256), (192, 192), (128, 128), (96, 96)]
    assert canvases(quick, ("1333x800",)) == [(800, 1344)]
    with pytest.raises(ConfigError, match="WIDTHxHEIGHT"):
        canvases(quick, ("800",))


def test_a_plan_holds_all_kinds_of_blocks_of_its_bases():
    space = Space(("r18", "lite0"), sizes=("96x96",))
    plan = table_plan(space, CPU, engines=6)
    families = {block.family for block in plan.blocks}
    for config in space.configs():
        base = base_of(config, [(96, 96)])
        assert {block for block, _ in blocks_of(base, (96, 96))} <= set(plan.blocks)
        assert (base, (96, 96)) in plan.engines
    assert {"depthwise 5x5/1", "conv 3x3/2", "linear", "rest"} <= families
    assert 6 <= len(plan.engines) <= 8


def test_sizes_of_the_target_come_before_those_of_the_preset():
    target = Target(name="mine", device="cpu", runtime="ort-cpu", sizes=("160x96",))
    plan = table_plan(Space(("r18",)), target, engines=2)
    assert {size for _, size in plan.engines} == {(96, 160)}


def test_what_is_validated_on_was_never_fitted_to():
    space = Space(("r18", "lite0"))
    cases = validation_cases(space, CPU, 50)
    assert len(set(cases)) == 50
    assert not set(cases) & set(table_plan(space, CPU, engines=24).engines)
    assert {spec.family for spec, _ in cases[:2]} == {"resnet_basic", "efficientnet_lite"}
    assert {size for _, size in cases} == set(canvases(space.configs()[0], ()))


def test_a_space_needs_a_base():
    with pytest.raises(ConfigError, match="at least one base"):
        Space(()).configs()
