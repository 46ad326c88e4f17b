"""`jdnas student`: legal actions, drawn actions, and what they do."""

import json
from pathlib import Path

from jdnas.config import resolve
from jdnas.presets import preset
from jdnas.student.actions import Action, ActionRules, legal_actions
from jdnas.student.heads import HEAD_KINDS


def test_legal_actions_are_listed_with_their_chances(jdnas) -> None:
    answer = jdnas("student", "actions", "r18", "--preset", "custom")
    assert answer.code == 0, answer.err
    assert "r18: 160.3 GMAC" in answer.out
    count = len(legal_actions(preset("r18", 80), ActionRules(max_depths=(4, 4, 4, 4))))
    assert f"{count} legal actions at generation 0" in answer.out
    chances = [float(line.split()[-3]) for line in answer.out.splitlines() if line.endswith("% │")]
    assert len(chances) == count and abs(sum(chances) - 100) < 0.06 * count
    assert not any(kind in answer.out for kind in HEAD_KINDS)


def test_the_deploy_preset_reaches_the_heads(jdnas) -> None:
    out = jdnas("student", "actions", "lite0", "--preset", "deploy").out
    assert all(kind in out for kind in HEAD_KINDS)


def test_widths_follow_the_steps_of_the_target(jdnas) -> None:
    Path("tiny.yaml").write_text("name: tiny\ndevice: some\nruntime: tensorrt\nprecision: int8\n")
    out = jdnas("student", "actions", "r18", "--set", "student.heads=true", "--target", "tiny.yaml").out
    assert "1000 to 864" in out and "1000 to 872" in jdnas("student", "actions", "r18", "--set", "student.heads=true").out
    assert resolve("quick", {"target": "tiny.yaml"}).width_step == 32
    assert resolve("quick", {"target": "t4-trt"}).width_step == 8
    assert resolve("quick", {"target": "tiny.yaml", "student": {"width_step": 16}}).width_step == 16


def test_drawn_actions_are_json_and_follow_the_seed(jdnas) -> None:
    drawn = [jdnas("student", "sample", "r18", "--count", 4, "--seed", seed).out for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(Action.from_dict(json.loads(line)).kind for line in drawn[0].splitlines())


def test_applied_actions_follow_one_another(jdnas, recwarn) -> None:
    answer = jdnas("student", "sample", "r18", "--count", 2, "--apply", "--seed", 4, "--classes", 3, "--size", "320x320")
    assert answer.code == 0, answer.err
    costs = [line.split(" -> ") for line in answer.out.splitlines() if "GMAC" in line]
    assert len(costs) == 2 and costs[0][1].strip() == costs[1][0].strip() and costs[0][0].strip() != costs[0][1].strip()


def test_architectures_are_compared(jdnas) -> None:
    lines = jdnas("student", "explain", "r34", "r50").out.splitlines()
    assert lines[0] == "Backbone family: resnet_basic → resnet_bottleneck."


def test_wrong_names_and_ratios(jdnas, coco) -> None:
    assert "unknown base 'r19'" in jdnas("student", "actions", "r19").error
    assert "no such file: nothing.json" in jdnas("student", "explain", "r18", "nothing.json").error
    data = coco()
    assert (
        "unknown kind of pruning 'prune_ears'" in jdnas("prune", "--weights", "w.safetensors", "--data", data, "--kind", "prune_ears").error
    )
    assert "--ratio must be between 0 and 1, got 1.5" in jdnas("prune", "--weights", "w.safetensors", "--data", data, "--ratio", 1.5).error
    assert "--out must end in .safetensors" in jdnas("prune", "--weights", "w.safetensors", "--data", data, "--out", "x.onnx").error
    assert "would overwrite" in jdnas("prune", "--weights", "w.safetensors", "--data", data, "--out", "./w.safetensors").error
    assert "no such file: w.json" in jdnas("prune", "--weights", "w.safetensors", "--data", data).error
