"""Everything that the command line does, as functions: `jdnas.optimize`, `jdnas.load`, ...

The commands call these functions. They raise the errors in `jdnas.errors`, show progress on a Rich console (in a notebook too), and
return typed results. Each is imported when it is first used, since what they rest on takes seconds to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jdnas.api.data import check_data, split_data
    from jdnas.api.detector import Detector, load
    from jdnas.api.detectors import bases, complexity, evaluate, export, import_weights, predict, prune, spec_of, upgrade
    from jdnas.api.devices import (
        adapt_latency,
        benchmark,
        doctor,
        import_conv_library,
        measure_latency,
        predict_latency,
        prepare_latency,
        repeat_latency,
        targets,
        validate_latency,
    )
    from jdnas.api.reproducing import reproduce_paper
    from jdnas.api.results import Run, Trained
    from jdnas.api.runs import (
        compare_methods,
        distill_student,
        evaluate_pool,
        optimize,
        plan,
        resolve_settings,
        search_status,
        search_students,
        train,
        train_pool,
        write_report,
    )
    from jdnas.api.serving import serve_engines
    from jdnas.api.students import explain, pool_space, sample_actions, student_actions
    from jdnas.pipeline.placement import Placement

# One name a line: everybody adds to these.
__all__ = [
    "Detector",
    "Placement",
    "Run",
    "Trained",
    "adapt_latency",
    "bases",
    "benchmark",
    "check_data",
    "compare_methods",
    "complexity",
    "distill_student",
    "doctor",
    "evaluate",
    "evaluate_pool",
    "explain",
    "export",
    "import_conv_library",
    "import_weights",
    "load",
    "measure_latency",
    "optimize",
    "plan",
    "pool_space",
    "predict",
    "predict_latency",
    "prepare_latency",
    "prune",
    "repeat_latency",
    "reproduce_paper",
    "resolve_settings",
    "sample_actions",
    "search_status",
    "search_students",
    "serve_engines",
    "spec_of",
    "split_data",
    "student_actions",
    "targets",
    "train",
    "train_pool",
    "upgrade",
    "validate_latency",
    "write_report",
]

_PLACES = {
    "data": ("check_data", "split_data"),
    "detector": (
        "Detector",
        "load",
    ),
    "detectors": (
        "bases",
        "complexity",
        "evaluate",
        "export",
        "import_weights",
        "predict",
        "prune",
        "spec_of",
        "upgrade",
    ),
    "devices": (
        "adapt_latency",
        "benchmark",
        "doctor",
        "import_conv_library",
        "measure_latency",
        "predict_latency",
        "prepare_latency",
        "repeat_latency",
        "targets",
        "validate_latency",
    ),
    "reproducing": ("reproduce_paper",),
    "results": (
        "Run",
        "Trained",
    ),
    "runs": (
        "Placement",
        "compare_methods",
        "distill_student",
        "evaluate_pool",
        "optimize",
        "plan",
        "resolve_settings",
        "search_status",
        "search_students",
        "train",
        "train_pool",
        "write_report",
    ),
    "serving": ("serve_engines",),
    "students": (
        "explain",
        "pool_space",
        "sample_actions",
        "student_actions",
    ),
}
_PLACE_OF = {name: place for place, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _PLACE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACE_OF[name]}"), name)
