"""``torch.compile`` on a MODEL: what acts inside the network acts as on one that is not compiled, to the last bit."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def fresh_compiler():
    import torch._dynamo

    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(model, graphs: list, whole: bool = True):
    """As ComfyUI's TorchCompileModel does it; or block by block, as packs do."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    clone = model.clone()
    keys = ["diffusion_model"] if whole else ["diffusion_model.time_embed"]
    set_torch_compile_wrapper(clone, backend=backend, keys=keys)
    return clone


@pytest.mark.parametrize(("whole", "plain_first"), [(True, True), (True, False), (False, True)])
def test_sms_on_a_compiled_network_is_sms(rig, styled, whole, plain_first):
    source, graphs = rig.runs.latent(1, 4, 8, 8), []
    model = compiled(styled, graphs, whole)
    if plain_first:
        rig.runs.plain(model, rig.runs.pair(), rig.runs.latent(2, 4, 8, 8))
    before = len(graphs)
    assert bool(before) == plain_first
    found = rig.runs.sms(model, source, steps=2)
    assert torch.equal(found, rig.runs.sms(styled, source, steps=2))
    assert len(graphs) == before


def test_hooked_calls_do_not_run_into_the_limit_of_compilations(rig, styled, caplog):
    graphs = []
    with caplog.at_level("WARNING"):
        rig.runs.sms(compiled(styled, graphs), rig.runs.latent(1, 4, 8, 8), steps=12, cfg=1.0)
    assert graphs == []
    assert "recompile_limit" not in caplog.text
    assert caplog.text.count("the network is compiled (torch.compile)") <= 1


def test_plain_calls_stay_compiled_afterwards(rig, styled):
    graphs = []
    model = compiled(styled, graphs, whole=False)
    rig.runs.sms(model, rig.runs.latent(1, 4, 8, 8), steps=1)
    assert graphs == []
    rig.runs.plain(model, rig.runs.pair(), rig.runs.latent(1, 4, 8, 8))
    assert graphs


@pytest.mark.parametrize("edit", [True, False])
def test_guidance_on_a_compiled_network_is_guidance(rig, styled, edit):
    source, guided = rig.runs.latent(1, 4, 8, 8), rig.ordinary.guided(styled, edit=edit)
    model = compiled(guided, [])
    found = rig.ordinary.sample(model, source, sigmas=(1.5, 0.7, 0.0))
    assert rig.runs.moved(found, rig.ordinary.sample(guided, source, sigmas=(1.5, 0.7, 0.0))) < 1e-5


def test_after_an_error_the_compiler_is_as_it_was(rig, styled):
    graphs = []
    with pytest.raises(ZeroDivisionError):
        rig.runs.sms(compiled(rig.endings.failing_after(styled, 3), graphs), rig.runs.latent(1, 4, 8, 8))
    rig.runs.plain(compiled(styled, graphs, whole=False), rig.runs.pair(), rig.runs.latent(1, 4, 8, 8))
    assert graphs


def test_calls_on_several_threads_leave_the_compiler_on(rig):
    """Newer versions of ComfyUI call a model on each device at the same time."""
    import threading

    inside, leave = threading.Barrier(2), threading.Event()

    def work(first: bool):
        with rig.compiled._uncompiled():
            inside.wait()
            if not first:
                leave.wait()
        leave.set()

    threads = [threading.Thread(target=work, args=(first,)) for first in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    graphs = []
    torch.compile(lambda x: x + 1, backend=lambda graph, _: graphs.append(graph) or graph.forward)(torch.ones(2))
    assert len(graphs) == 1


def test_version_without_the_switch_refuses_by_name(rig, styled, monkeypatch):
    monkeypatch.delattr(torch.compiler, "set_stance")
    with pytest.raises(rig.rows.StylizationError, match="torch.compile.*left out.*PyTorch"):
        rig.runs.sms(compiled(styled, []), rig.runs.latent(1, 4, 8, 8))
    assert torch.isfinite(rig.runs.sms(styled, rig.runs.latent(1, 4, 8, 8), steps=1)).all()
