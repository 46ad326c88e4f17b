"""One detector as one artifact in one precision, written and compared with PyTorch; nothing is published here."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto

from export.artifact import ArtifactInfo, InputForm
from export.forms import forms_for
from export.graph import check_settings, detector_graph, stamp, write_artifact
from export.int8 import Feeds, calibrate
from export.int8_search import choose
from export.parity import DetectionsLike, ImageBatch, ParityResult, compare
from export.runners import open_runner, predictor
from export.settings import Int8Settings, Tolerances
from jdnas.data.batches import eval_batches
from jdnas.data.records import DetectionSet
from jdnas.data.types import Batch
from jdnas.errors import ConfigError
from jdnas.models.bound import materialize
from jdnas.models.weights import State
from jdnas.sizes import SizeHW
from jdnas.spec import DetectorSpec
from jdnas.training.evaluate import evaluate

Say = Callable[[str], object]
NOISE_BATCHES = 4
_MEGABYTE = 1e6


@dataclass(frozen=True)
class Subject:
    """A detector at one canvas and batch, with the input form and provenance of its artifacts, for a runtime of `export.forms`."""

    spec: DetectorSpec
    state: State
    classes: tuple[str, ...]
    size_hw: SizeHW
    batch: int = 1
    input_form: InputForm = "normalized"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    runtime: str = "ort-cpu"

    def check(self) -> None:
        """Raise a ConfigError for what cannot be exported."""
        check_settings(self.spec, self.size_hw, self.batch, self.classes, self.input_form)

    def info(self, precision: str, **changes: Any) -> ArtifactInfo:
        """Return the metadata of its artifact in a precision."""
        known = ArtifactInfo(
            self.spec, self.classes, self.size_hw, self.batch, precision, dict(self.provenance), asdict(forms_for(self.runtime)),
            input=self.input_form,
        )  # fmt: skip
        return replace(known, **changes)

    def graph(self, precision: str) -> ModelProto:
        """Return its graph of normalized canvases, in "fp32" or "fp16"."""
        return detector_graph(
            self.state, self.spec, size_hw=self.size_hw, batch=self.batch, precision=precision, forms=forms_for(self.runtime)
        )


@dataclass(frozen=True)
class Proof:
    """What artifacts are compared with PyTorch on: `images` of a validation set and its AP, or noise where there is no set.

    `limits` are the tolerances of each precision, `runtime` is where artifacts run, `known_ap` the AP of the detector in PyTorch if it was
    measured before, and `with_ap` says whether AP is compared at all. Detections of PyTorch are computed once.
    """

    subject: Subject
    limits: Mapping[str, Tolerances]
    val: DetectionSet | None = None
    images: int = 32
    runtime: str = "ort-cpu"
    with_ap: bool = True
    known_ap: float | None = None

    def compare(self, artifact: Path, precision: str) -> ParityResult:
        """Return the comparison of an artifact of the subject."""
        with open_runner(artifact, self.runtime) as runner:
            engine, ap = predictor(runner), None
            if self.val is not None and self.with_ap:
                ap = self._ap(engine)
            references = iter(self._references)
            return compare(
                lambda *_: next(references), engine, self._batches(), tolerances=self.limits[precision], reference_ap=self.ap, runner_ap=ap
            )

    @cached_property
    def ap(self) -> float | None:
        """The detector's AP in PyTorch, None where it is not compared."""
        if self.val is None or not self.with_ap:
            return None
        return self._ap(self._detector) if self.known_ap is None else self.known_ap

    @cached_property
    def _detector(self) -> torch.nn.Module:
        return materialize(self.subject.spec, self.subject.state)

    @cached_property
    def _references(self) -> list[DetectionsLike]:
        with torch.inference_mode():
            return [self._detector(batch.images, batch.sizes_hw) for batch in self._batches()]

    def _ap(self, predict: Any) -> float:
        one = self.subject
        assert self.val is not None
        traits = one.spec.traits
        return evaluate(predict, self.val, size_hw=one.size_hw, batch=one.batch, mean=traits.mean, std=traits.std).ap

    def _batches(self) -> Iterator[ImageBatch]:
        return parity_batches(self.subject, self.val, self.images)


@dataclass(frozen=True)
class Calibration:
    """Training images that ranges of activations come from: `images`, spread over the set, and `ranking` to tell sensitive layers."""

    train: DetectionSet
    settings: Int8Settings = Int8Settings()
    images: int = 128
    ranking: int = 8

    def feeds(self, subject: Subject, count: int) -> Iterator[Feeds]:
        """Iterate batches of normalized canvases with `count` images in all; the last one is filled up by repetition."""
        for batch in _spread_batches(self.train, subject, count):
            rows = torch.arange(subject.batch).clamp(max=len(batch.images) - 1)
            yield {"images": batch.images[rows].numpy(), "sizes_hw": batch.sizes_hw[rows].numpy()}


@dataclass(frozen=True)
class Made:
    """An artifact that was compared with PyTorch, where it lies for now; `kept` are the groups of layers that int8 left in float."""

    precision: str
    path: Path
    result: ParityResult
    kept: tuple[str, ...] = ()

    @property
    def size_mb(self) -> float:
        """Size of the file in megabytes."""
        return self.path.stat().st_size / _MEGABYTE


def make(subject: Subject, precision: str, path: Path, proof: Proof, calibration: Calibration | None, say: Say = lambda _: None) -> Made:
    """Export `subject` in one precision to `path`, compare it and write the verdict into its metadata.

    A ConfigError where int8 has no images to calibrate with.
    """
    subject.check()
    if precision == "int8":
        if calibration is None:
            raise ConfigError("int8 needs images to calibrate with; name the data set with --data FOLDER")
        return _make_int8(subject, path, proof, calibration, say)
    write_artifact(subject.graph(precision), subject.info(precision), path)
    result = proof.compare(path, precision)
    stamp(path, subject.info(precision, parity=result.to_dict()))
    return Made(precision, path, result)


def _make_int8(subject: Subject, path: Path, proof: Proof, calibration: Calibration, say: Say) -> Made:
    settings = calibration.settings
    rest = "fp16" if settings.style == "tensorrt" else "fp32"
    calibrated = calibrate(subject.graph(rest), calibration.feeds(subject, calibration.images), settings)

    def check(model: ModelProto) -> ParityResult:
        write_artifact(model, subject.info("int8"), path)
        return proof.compare(path, "int8")

    choice = choose(calibrated, check, calibration.feeds(subject, calibration.ranking), say=say)
    quantization = {
        "images": calibrated.images, "method": settings.method, "style": settings.style, "seven_bits": settings.seven_bits, "rest": rest,
        "in_float": list(choice.kept), "sensitivity": dict(choice.sensitivity),
    }  # fmt: skip
    provenance = {**subject.provenance, "int8": quantization}
    write_artifact(choice.model, subject.info("int8", provenance=provenance, parity=choice.result.to_dict()), path)
    return Made("int8", path, choice.result, choice.kept)


def _spread(data: DetectionSet, count: int) -> DetectionSet:
    """Return `count` images of a set, or all of a smaller one, at equal distances."""
    records = data.records
    chosen = np.unique(np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int))
    return replace(data, records=tuple(records[index] for index in chosen))


def parity_batches(subject: Subject | ArtifactInfo, val: DetectionSet | None, images: int) -> Iterator[ImageBatch]:
    """Give `images` of a validation set, spread over it, or noise where there is none."""
    if val is None:
        return noise_batches(subject.spec, subject.size_hw, subject.batch)
    return _spread_batches(val, subject, images)


def _spread_batches(data: DetectionSet, subject: Subject | ArtifactInfo, count: int) -> Iterator[Batch]:
    traits = subject.spec.traits
    return eval_batches(_spread(data, count), size_hw=subject.size_hw, batch=subject.batch, mean=traits.mean, std=traits.std)


@dataclass(frozen=True)
class NoiseBatch:
    """Images and their sizes."""

    images: torch.Tensor
    sizes_hw: torch.Tensor


def noise_batches(spec: DetectorSpec, size_hw: SizeHW, batch: int) -> Iterator[NoiseBatch]:
    """Give a few batches of noise that fills the canvas: of bytes, so that every input form can be fed the same."""
    generator, traits = torch.Generator().manual_seed(0), spec.traits
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (traits.mean, traits.std))
    for _ in range(NOISE_BATCHES):
        pixels = torch.randint(0, 256, (batch, 3, *size_hw), generator=generator)
        yield NoiseBatch((pixels / 255 - mean) / std, torch.tensor([size_hw] * batch))
