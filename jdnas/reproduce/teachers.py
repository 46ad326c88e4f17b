"""Table 1: subnets of the elastic teacher pool against the same nets trained alone for as many images.

Pool and lone nets grow from one trained base and see the same number of images from there on; a pool for each seed.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from jdnas.distill.settings import DistillSettings
from jdnas.models.complexity import multiply_adds
from jdnas.models.weights import State, cut, grow
from jdnas.pipeline.context import Context, SizeHW
from jdnas.pipeline.detector_training import evaluate_detector
from jdnas.pipeline.pool import calibration_of
from jdnas.reproduce import paper
from jdnas.reproduce.lab import Lab
from jdnas.reproduce.layout import Result, Table, points_spread, size_text, with_paper
from jdnas.reproduce.records import Job, Record, file_name, spread, trained
from jdnas.spec import DetectorSpec
from jdnas.teacher.names import subnet_from_text
from jdnas.teacher.pool import TeacherPool, load_pool
from jdnas.teacher.settings import PoolSettings
from jdnas.teacher.shrink import train_pool
from jdnas.teacher.space import SubnetSpace, make_space
from jdnas.training.checkpoint import has_detector, read_json
from jdnas.training.settings import TrainSettings

TITLE = "Table 1: subnets of the elastic teacher pool (ETP) against the same nets under standard training"
METHODS = {"alone": "standard", "pool": "our ETP"}


def pool_once(
    context: Context, base: State, settings: PoolSettings, distill: DistillSettings, folder: Path, *, seed: int
) -> tuple[TeacherPool, Record]:
    """Train a pool once and keep it in `folder`; return it with the images, skipped steps, seconds and visits of its training."""
    stem, space = folder / "pool", make_space(context.base_spec, settings)
    if not has_detector(stem):
        state, reports = train_pool(
            grow(base, context.base_spec, space.largest, seed=seed), space, settings, distill, images=len(context.train.records),
            batches=lambda of, step: context.train_batches(settings.train, of, step), device=context.device, seed=seed, folder=folder,
        )  # fmt: skip
        TeacherPool(space, state, context.train.classes).save(stem, {"phases": [asdict(report) for report in reports]})
    phases = read_json(stem.with_suffix(".json"))["meta"].get("phases", [])
    visits: Counter[str] = Counter()
    for phase in phases:
        visits.update(phase["visited"])
    known = {"images": sum(p["images"] for p in phases), "skipped": sum(p["skipped"] for p in phases),
             "seconds": round(sum(p["seconds"] for p in phases), 1), "visits": dict(visits)}  # fmt: skip
    return load_pool(stem, context.train.classes), known


def subnet_aps(context: Context, pool: TeacherPool, text: str, sizes_hw: tuple[SizeHW, ...]) -> Record:
    """Return the AP of a subnet at the base's resolution before and after recalibration, and after it at every one of `sizes_hw`."""
    spec, base_size = subnet_from_text(pool.space, text), context.base_size_hw
    before = evaluate_detector(context, spec, cut(pool.state, spec), base_size)
    after = {}
    for size in (*(size for size in sizes_hw if size != base_size), base_size):
        state = pool.extract(spec, calibration_of(context, pool, size), context.device).state_dict()
        after[size] = evaluate_detector(context, spec, state, size)
    last = after[base_size]
    return {"ap_before": before.ap, "ap": last.ap, "ap50": last.ap50, "ap_by_size": {size_text(size): m.ap for size, m in after.items()}}


def lone_start(base: State, base_spec: DetectorSpec, space: SubnetSpace, spec: DetectorSpec, seed: int) -> State:
    """Return the weights that a lone net starts from: grown from the base, as the pool is, or cut from it where it is smaller."""
    if all(mine >= its for mine, its in zip(spec.depths, base_spec.depths, strict=True)):
        return grow(base, base_spec, spec, seed=seed)
    return cut(grow(base, base_spec, space.largest, seed=seed), spec)


def lone_record(
    context: Context, base: State, space: SubnetSpace, text: str, settings: TrainSettings, stem: Path, *, seed: int,
    sizes_hw: tuple[SizeHW, ...] = (),
) -> Record:  # fmt: skip
    """Train one net alone and return its record."""
    spec = subnet_from_text(space, text)
    state, known = trained(context, stem, spec, lambda: lone_start(base, context.base_spec, space, spec, seed), settings, seed=seed)
    others = {size_text(size): evaluate_detector(context, spec, state, size).ap for size in sizes_hw if size != context.base_size_hw}
    return {"kind": "alone", "subnet": text, "seed": seed, **{key: known[key] for key in ("images", "ap", "ap50", "skipped", "seconds")},
            "ap_by_size": {**others, size_text(context.base_size_hw): known["ap"]}}  # fmt: skip


def _sizes(context: Context) -> tuple[SizeHW, ...]:
    """Return the two input sizes of the table: the run's smallest and largest."""
    return tuple(dict.fromkeys((context.sizes_hw[0], context.sizes_hw[-1])))


def jobs(lab: Lab) -> list[Job]:
    """Return a job for the pool of each seed and for each lone net of each seed."""
    found: list[Job] = []
    table, work = lab.scale.table1, lab.work / "table1"
    for seed in lab.scale.seeds:

        def pool(seed: int = seed) -> Record:
            return _pool_job(lab, seed)

        found.append(Job(work / f"pool_{seed}.json", f"pool of seed {seed}", pool))
        for name, text in table.subnets.items():
            stem = work / file_name("alone", name, seed)

            def alone(text: str = text, seed: int = seed, stem: Path = stem) -> Record:
                return _alone_job(lab, text, seed, stem)

            found.append(Job(stem.with_name(f"{stem.name}.record.json"), f"{name} alone, seed {seed}", alone))
    return found


def _pool_job(lab: Lab, seed: int) -> Record:
    context, (base, _) = lab.context(lab.scale.pool_model), lab.base(lab.scale.pool_model)
    folder = lab.work / "table1" / f"pool_{seed}"
    if seed == lab.seed:  # the pool of the searches
        lab.pool()
        folder = context.folder.pool.parent
    pool, known = pool_once(context, base, context.config.pool, context.config.distill, folder, seed=seed)
    subnets = {text: subnet_aps(context, pool, text, _sizes(context)) for text in lab.scale.table1.subnets.values()}
    return {"kind": "pool", "seed": seed, "subnets": subnets, **known}


def _alone_job(lab: Lab, text: str, seed: int, stem: Path) -> Record:
    context, (base, _) = lab.context(lab.scale.pool_model), lab.base(lab.scale.pool_model)
    settings, space = context.config.pool, make_space(context.base_spec, context.config.pool)
    train = settings.train.model_copy(update={"epochs": sum(phase.epochs for phase in settings.phases)})
    return lone_record(context, base, space, text, train, stem, seed=seed, sizes_hw=_sizes(context))


def result(lab: Lab, records: list[Record]) -> Result:
    """Lay the records out as the paper does: a net and a method a row, an AP for each input size."""
    context = lab.context(lab.scale.pool_model)
    space, coco, rows = make_space(context.base_spec, context.config.pool), paper.is_coco(context.train.classes), []
    cells, beside = [], []
    for name, text in lab.scale.table1.subnets.items():
        spec = subnet_from_text(space, text)
        for kind, method in METHODS.items():
            aps = _aps(records, kind, text, tuple(map(size_text, _sizes(context))))
            if not aps:
                continue
            rows.append({"base_model": name, "method": method, "subnet": text, "spec": spec.to_dict(), "ap": aps,
                         "gmac": multiply_adds(spec, context.base_size_hw) / 1e9})  # fmt: skip
            cells.append((name, method, " / ".join(aps), " / ".join(points_spread(found) for found in aps.values())))
            beside.append(_of_paper(name, method, _sizes(context)))
    columns, texts = with_paper(("Base model", "Method", "Input size", "AP"), cells, beside if coco else None)
    return Result(Table(TITLE, columns, texts, _notes(records, coco)), rows)


def _aps(records: list[Record], kind: str, text: str, sizes: tuple[str, ...]) -> Mapping[str, Record]:
    mine = [r if kind == "alone" else r["subnets"][text] for r in records if r["kind"] == kind and (kind == "pool" or r["subnet"] == text)]
    return {size: spread([r["ap_by_size"][size] for r in mine]) for size in sizes} if mine else {}


def _of_paper(name: str, method: str, sizes: tuple[SizeHW, ...]) -> str:
    figures = [paper.near(paper.TABLE1.get((name, method), {}), max(size)) for size in sizes]
    return " / ".join("-" if value is None else str(value) for value in figures)


def _notes(records: list[Record], coco: bool) -> tuple[str, ...]:
    images = sorted({r["images"] for r in records})
    seen = f"After the base that all grow from, every net or pool saw {' or '.join(map(str, images))} training images; seeds " \
           f"{', '.join(map(str, sorted({r['seed'] for r in records})))}."  # fmt: skip
    return (seen,) if coco else (seen, paper.NO_COCO)
