"""How much work a run is, in multiply-adds: what the ETA and `jdnas optimize --plan` rest on."""

from dataclasses import dataclass

from jdnas.models.complexity import multiply_adds
from jdnas.pipeline.context import Context
from jdnas.spec import DetectorSpec
from jdnas.teacher.space import make_space
from jdnas.training.schedule import steps_of
from jdnas.training.settings import TrainSettings

TRAINING_PASSES = 3  # a backward pass costs about two forward passes
OVERHEAD = 1.35  # augmentation, matching, NMS and the optimizer, as a share of the forward pass of a small detector
DELIVERY_UNITS = 60.0


@dataclass(frozen=True, slots=True)
class WorkPlan:
    """Work per step of the job in Gmultiply-adds, and the training images that each step sees.

    `training` is that of one image of the base, `evaluation` that of the base on all validation images.
    """

    base: float
    pool: float
    candidate: float
    candidates: int
    polish: float
    delivery: float
    training: float
    evaluation: float
    images: dict[str, int]

    @property
    def total(self) -> float:
        """All of it, with every candidate trained."""
        return self.base + self.pool + self.candidate * self.candidates + self.polish + self.control() + self.delivery

    def control(self, images: int | None = None) -> float:
        """Return the work of the control, for as many images as a student of the expected lineage has seen (None)."""
        return (self.images["control"] if images is None else images) * self.training + self.evaluation


def work_plan(context: Context) -> WorkPlan:
    """Estimate the work of a run from its settings."""
    config, base = context.config, context.base_spec
    space = make_space(base, config.pool)
    largest, smallest = space.largest, space.smallest

    def forward(spec: DetectorSpec) -> float:
        return OVERHEAD * sum(multiply_adds(spec, size) for size in context.sizes_hw) / len(context.sizes_hw) / 1e9

    def images_of(epochs: float, train: TrainSettings) -> int:
        return steps_of(epochs, len(context.train.records), train.batch) * train.batch

    evaluation = forward(base) * len(context.val.records) * len(context.sizes_hw)
    base_images = images_of(config.base_train.epochs, config.base_train) if config.train_base else 0
    pool_images, pool = 0, 0.0
    for phase in config.pool.phases:
        seen = images_of(phase.epochs, config.pool.train)
        nets = [largest] + ([smallest] + [base] * phase.subnets if phase.depth_share or len(phase.widths) > 1 else [])
        pool_images += seen
        pool += seen * TRAINING_PASSES * sum(forward(net) for net in nets)

    def taught(images: int) -> float:
        share = config.distill.share_taught(images / len(context.train.records)) if images else 0.0
        return images * (TRAINING_PASSES * forward(base) + share * forward(largest))

    candidate_images = images_of(config.candidate_train.epochs, config.candidate_train)
    candidate = taught(candidate_images) + evaluation
    lineage = max(1, config.search.trials // 3)
    polish_images = images_of(config.search.polish_epochs, config.candidate_train) if config.search.polish_epochs else 0
    polish = taught(polish_images) + (evaluation if polish_images else 0.0)
    return WorkPlan(
        base=base_images * TRAINING_PASSES * forward(base) + evaluation, pool=pool, candidate=candidate, candidates=config.search.trials,
        polish=polish, delivery=DELIVERY_UNITS + 2 * evaluation, training=TRAINING_PASSES * forward(base), evaluation=evaluation,
        images={"base": base_images, "pool": pool_images, "candidate": candidate_images, "polish": polish_images,
                "control": lineage * candidate_images + polish_images},
    )  # fmt: skip
