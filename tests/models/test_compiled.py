import pytest
import torch

from jdnas.errors import TrainingError
from jdnas.models import compiled as module
from jdnas.models.bound import BoundDetector
from jdnas.models.compiled import CompiledDetector
from jdnas.models.detector import padded_truth
from tests.models.test_detector import IMAGES, SIZES, SPEC, generator, lively, targets


def _step(losses, state):
    """Return the loss of one step, with its gradients and the running statistics after it."""
    terms = losses(IMAGES, SIZES, targets(16), generator()).terms
    total = sum(terms.values())
    total.backward()
    return (
        terms,
        {name: t.grad for name, t in state.items() if t.grad is not None},
        {n: t.clone() for n, t in state.items() if "running" in n},
    )


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_compiled_step_is_the_plain_step(backend, frozen):
    # Generating code takes minutes on a CPU (it gives the same there); a machine with a GPU does both.
    plain = {name: t.clone().requires_grad_(t.is_floating_point() and "running" not in name) for name, t in lively().state_dict().items()}
    own = {name: t.detach().clone() for name, t in plain.items()}
    compiled = CompiledDetector(SPEC, own, frozen_norms=frozen, backend=backend)
    bound = BoundDetector(SPEC, plain, frozen_norms=frozen)
    terms, gradients, statistics = _step(lambda *args: bound.call("losses", *args), plain)
    own_terms, own_gradients, own_statistics = _step(compiled.losses, own)
    for name in terms:
        torch.testing.assert_close(own_terms[name], terms[name], rtol=1e-4, atol=1e-5)
    assert own_gradients.keys() == gradients.keys() and own_statistics.keys() == statistics.keys()
    for name in gradients:
        torch.testing.assert_close(own_gradients[name], gradients[name], rtol=1e-3, atol=1e-4)
    for name in statistics:
        torch.testing.assert_close(own_statistics[name], statistics[name], rtol=1e-4, atol=1e-5)


def test_the_number_of_objects_compiles_nothing_anew():
    compiles = []

    def counting(graph, inputs):
        compiles.append(graph)
        return graph.forward

    detector = CompiledDetector(SPEC, lively().state_dict(), backend=counting)
    with torch.no_grad():
        for count in (0, 3, 16):
            detector.losses(IMAGES, SIZES, targets(count), generator())
        assert len(compiles) == 1
        detector.losses(IMAGES, SIZES, targets(17), generator())
    assert len(compiles) == 2
    assert padded_truth(targets(17), 16)[0].shape[1] == 32 and padded_truth(targets(0))[2].shape == (2, 1)


def test_a_machine_that_cannot_compile_says_so(monkeypatch):
    def failing(graph, inputs):
        raise RuntimeError("no compiler found")

    detector = CompiledDetector(SPEC, lively().state_dict(), backend=failing)
    with pytest.raises(TrainingError, match=r"cannot be compiled here: .*\(compile: false\)"):
        detector.losses(IMAGES, SIZES, targets(), generator())
    assert module.TRAINING.nms == "fixed_point"
