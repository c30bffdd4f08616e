"""Refusing what does not fit in memory; keeping compiled programs and their time."""

import re
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from lth import train
from lth.cli import main
from lth.lab import devices
from lth.lab.build import assemble, compose, ranking
from lth.lab.config.presets import SUPERMASKS
from lth.lab.devices import compilation, memory


def said(capsys):
    """What was printed as an error, as one line."""
    return " ".join(capsys.readouterr().err.split())


def test_a_model_too_large_is_refused_before_anything_is_made(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(memory, "limit", lambda: 24 * 2**30)
    monkeypatch.setattr(ranking, "prunable", lambda *_: pytest.fail("made a mask"))
    flags = "--model.widths 2000000 2000000 --replicates 1 --runs"
    assert main.command(["run", "digits", *flags.split(), str(tmp_path)]) == 2
    text = said(capsys)
    weights = 4 * (64 * 2_000_000 + 2_000_000**2 + 2_000_000 * 10)
    asked = int(re.search(r"asks for (\d+) bytes", text)[1])
    # The early state, the last ticket's and this one's, each with its moments.
    assert asked > 3 * weights
    assert f"has {24 * 2**30} (24.0 GiB)" in text
    assert "--model.widths" in text
    assert "training mlp (1 replicates)" in text
    assert not list(tmp_path.glob("digits*"))


def test_more_devices_hold_no_fewer_states_but_fewer_gradients(monkeypatch):
    asked = []
    monkeypatch.setattr(memory, "check_bytes", lambda n, what: asked.append(n))
    like = train.TrainState(None, jnp.zeros(5), {}, [jnp.zeros(5)])  # 20 + 20 bytes
    for size, over in ((1, "replicates"), (4, "replicates"), (4, "batch")):
        mesh = SimpleNamespace(size=size)
        compose.check_memory(devices.Plan(mesh, over, 8), like, "mlp")
    states = 3 * 8 * 40
    assert asked == [states + 8 * 20, states + 2 * 20, states + 8 * 20]


def test_scores_beside_the_weights_ask_for_more(monkeypatch):
    asked = []
    monkeypatch.setattr(memory, "check_bytes", lambda n, what: asked.append(n))
    e = SUPERMASKS["digits"]["continuous"].experiment
    assemble.build(replace(e, replicates=1))
    kernels = 4 * (64 * 300 + 300 * 100 + 100 * 10)
    # Three states of weights and two moments of Adam's, and a gradient.
    whole, with_scores = asked
    assert whole >= 10 * kernels
    assert with_scores - whole == pytest.approx(10 * kernels, rel=0.01)


def test_a_program_whose_intermediate_results_are_too_large_is_refused(monkeypatch):
    plan = devices.plan(1)

    def wide(x):  # [1000] in and out, 4 MB between
        return jnp.sort(x[:, None] * x[None], axis=0).sum(0)

    program = devices.spread(plan, wide, (0,))
    monkeypatch.setattr(memory, "limit", lambda: 10**5)
    with pytest.raises(memory.MemoryTooSmallError) as caught:
        program(jnp.ones((1, 1000)))
    asked = int(re.search(r"asks for (\d+) bytes", str(caught.value))[1])
    assert 4 * 10**6 <= asked < 10**8
    assert "which has 100000 (0.0 GiB)" in str(caught.value)
    monkeypatch.setattr(memory, "limit", lambda: None)  # not known: it is tried
    assert program(jnp.ones((1, 1000))).shape == (1, 1000)


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (
            "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 12345678 bytes",
            "12345678 bytes",
        ),
        (
            "RESOURCE_EXHAUSTED: Failed to allocate request for 12.00GiB "
            "(12884901888B) on device ordinal 0",
            "12.00GiB",
        ),
        (
            "RESOURCE_EXHAUSTED: Out of memory allocating 4000000000000 bytes.",
            "4000000000000 bytes",
        ),
    ],
)
def test_a_device_that_runs_out_of_memory_is_quoted(error, asked, capsys, monkeypatch):
    text = memory.out_of_memory(RuntimeError(error))
    assert f"it asked for {asked}, more than is left" in text
    assert "--batch-size" in text

    def fail(*_):
        raise RuntimeError(error)

    monkeypatch.setattr(main, "show_list", fail)
    assert main.command(["list"]) == 2
    assert asked in said(capsys)


def test_a_device_that_does_not_say_how_much_is_quoted_whole():
    text = memory.out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: no more room"))
    assert "too small: RESOURCE_EXHAUSTED: no more room. Lower" in text


def test_the_limit_is_the_least_that_is_known(tmp_path, monkeypatch):
    v2, v1, absent = (tmp_path / name for name in ("max", "limit", "absent"))
    monkeypatch.setattr(memory, "CGROUP", (v2, v1, absent))
    v2.write_text("max\n")
    v1.write_text("9223372036854771712\n")  # none
    whole = memory.limit()
    assert whole is not None
    assert 2**28 < whole < 2**60
    v2.write_text("123456789\n")
    assert memory.limit() == 123456789
    device = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 77})
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert memory.limit() == 77


def test_compile_time_counts_what_overlaps_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(compilation, "_spans", [])
    monkeypatch.setattr(compilation, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def ended(at, duration, event="/jax/core/compile/any"):
        now[0] = at
        compilation._heard(event, duration, fun_name="f")

    ended(1, 1)
    ended(3, 3)  # the first was a part of it
    ended(5, 2)
    assert compilation.seconds() == 5
    ended(5.5, 1.5)  # half of it beside the one before
    ended(7, 1, event="/jax/compilation_cache/any")
    assert compilation.seconds() == 5.5
    ended(9, 1)
    ended(10, 8)  # around the last one and a part of those before
    assert compilation.seconds() == 10


def test_compiled_programs_are_kept_unless_a_place_was_chosen(tmp_path):
    chosen = jax.config.jax_compilation_cache_dir
    assert chosen  # by conftest.py
    compilation.keep(lambda: tmp_path)
    assert jax.config.jax_compilation_cache_dir == chosen
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        compilation.keep(lambda: tmp_path / "kept")
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "kept")
        jax.jit(lambda x: jnp.sin(x) * 3)(jnp.ones(3))
        assert list((tmp_path / "kept").iterdir())
    finally:
        jax.config.update("jax_compilation_cache_dir", chosen)
        compilation.compilation_cache.reset_cache()


def test_the_list_of_runs_does_not_show_compiled_programs(tmp_path, capsys):
    (tmp_path / ".compiled").mkdir()
    assert main.command(["list", "--runs", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert ".compiled" not in out
    assert "none yet" in out
