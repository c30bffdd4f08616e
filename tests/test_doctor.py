"""Each check of the doctor says ok of what is right and FAILED of what is wrong."""

import ast
import functools
import hashlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import lth
from lth import criteria, masks, models, train
from lth.cli import main
from lth.lab import compiler, doctor
from lth.lab.build import names
from lth.lab.doctor import (
    arithmetic,
    canaries,
    learning,
    machine,
    place,
    ranking,
    restated,
)
from lth.lab.doctor.check import difference, judged, tree_difference
from lth.lottery import starts
from lth.masks import allocation
from lth.models import convolution


def failed(check: doctor.Check, *told: str) -> None:
    assert check.status == "FAILED", check
    for text in told:
        assert text in check.told


# What is quick, and what other tests (test_large) do not do at full size already.
QUICK = (
    *(
        "surgery",
        "reshuffling",
        "devices",
        "memory",
        "random numbers",
        "canary of sums",
        "products",
        "disk",
    ),
    *(
        "allocation",
        "taylor",
        "surgery",
        "convolution",
        "gradients",
        "folder of runs",
        "repeats",
    ),
)


@pytest.mark.parametrize("name", QUICK)
def test_this_machine_is_right(name, tmp_path):
    check = doctor.CHECKS[name](doctor.Where(tmp_path))
    assert check.status == "ok", check
    assert check.name == name
    assert "\n" not in check.told
    assert not list(tmp_path.iterdir())  # what was written to try it is gone


def test_numbers_are_compared_one_by_one():
    right = np.array([1.0, -2.0, 4.0])
    assert not difference("x", right, right).wrong
    assert not difference("x", right + 1e-6, right, 1e-5).wrong
    off = difference("x", right + np.array([0, 1e-4, 0]), right, 1e-5)
    assert off.wrong
    assert off.told == "x: 1 of 3 wrong, the first at [1] is -1.9999, not -2"
    for bad in (np.nan, np.inf):
        assert difference("x", [1, bad, 4], right, 1e-5).wrong
    assert difference("x", right[:2], right, 1e9).wrong  # a shape
    assert not difference("x", [-np.inf], [-np.inf]).wrong
    assert difference("x", [np.inf], [-np.inf], 1.0).wrong
    # Small numbers are not hidden behind a large one.
    large = np.array([1e6, 1.0, 1.0])
    assert tree_difference("x", [large + np.array([0, 1e-3, 0])], [large], 1e-4).wrong
    assert tree_difference("x", [large, large], [large], 1e-4).wrong
    found = [off, difference("y", right, right)]
    assert judged("n", found, "").told.endswith("not -2")
    assert judged("n", [*found, off], "").told.endswith("not -2; and 1 more of 3")


def test_wrong_reductions_are_told():
    def cut(x, axis):  # leaves the last row out
        return jnp.sum(x.at[-1].set(0), axis)

    told = "sum of [40001, 3] along 0: 2 of 3 wrong, the first at [0]"
    failed(arithmetic.reductions({"sum": (cut, np.sum)}), told)

    def near(x, axis):
        return jnp.mean(x, axis) + 1e-4

    failed(arithmetic.reductions({"mean": (near, np.mean)}), "mean of [999983]")


@pytest.mark.skipif(
    compiler.version() != "0.10.2", reason="this jaxlib is not the one that is wrong"
)
def test_without_the_guard_the_canary_is_told(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    run = lambda code: canaries.child(code.replace("import lth", ""))  # noqa: E731
    failed(canaries.deadly(run), "was killed by SIG", "ynn_fusion_type=-reduce helps")


def test_a_process_that_dies_or_miscounts_is_told():
    failed(canaries.deadly(lambda code: canaries.child("import os; os.abort()")))
    failed(canaries.deadly(lambda code: canaries.child("0/0")), "ZeroDivisionError")
    done = subprocess.CompletedProcess([], 0, '{"of all": 6144, "of one": 3}\n', "")
    failed(canaries.deadly(lambda code: done), "of one", "is 3, not 2")


def moved(x):
    return (x + 1)[jnp.array([0, 0, 1, 2])]


def wrong(x):
    return jnp.ones(4)


def test_a_wrong_update_is_a_warning_unless_we_have_one():
    assert canaries.slices(moved).status == "ok"
    warned = canaries.slices(wrong)
    assert warned.status == "warning"
    assert "algsimp" in warned.told
    program = jax.make_jaxpr(canaries.overlapping)(jnp.zeros((4, 1, 1)))
    failed(canaries.slices(wrong, lambda: {"a training": program}), "and a training do")


def _up(i, b):
    return lax.dynamic_update_slice(b, b[1:3], (i,))


@pytest.mark.parametrize(
    ("function", "count"),
    [
        (lambda x: lax.dynamic_update_slice(x, x[:3], (1,)), 1),
        (lambda x: (x + 1).at[1:].set((x * 2)[:-1]), 1),
        (lambda x: lax.fori_loop(0, 3, _up, x), 1),
        (lambda x: x.at[0].set(x[3]), 0),
        (lambda x: jax.jit(lambda y: y.at[1:].set(y[:-1]))(x), 1),
        (lambda x: x.at[2].set(0), 0),
        (lambda x: lax.dynamic_update_slice(jnp.zeros(9), x, (1,)), 0),
        (lambda x: jnp.roll(x, 1), 0),
    ],
)
def test_updates_from_their_own_array_are_found(function, count):
    program = jax.make_jaxpr(function)(jnp.arange(5.0))
    assert len(canaries.overlaps(program.jaxpr)) == count


FAMILIES = {
    "mlp": (models.MLP((8,)), (8, 8, 1)),
    "lenet5": (models.LeNet5(), (28, 28, 1)),
    "conv": (models.Conv(4, width=1 / 16), (16, 16, 3)),
    "resnet": (models.ResNet(20, width=1 / 4), (16, 16, 3)),
    "vit": (models.ViT(depth=1), (16, 16, 3)),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_no_training_of_ours_updates_an_array_by_itself(name):
    module, shape = FAMILIES[name]
    tx = optax.adam(1e-3)
    program = canaries.training(module, shape, tx)
    assert "while" in str(program)  # it is the loop of steps
    assert not canaries.overlaps(program.jaxpr)


def test_only_the_convolution_updates_slices():
    root = Path(lth.__file__).parent
    users = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if getattr(node, "attr", "").startswith("dynamic_update_")
    }
    assert users == {"models/convolution.py", "lab/doctor/canaries.py"}


def test_wrong_products_are_told():
    failed(arithmetic.products(lambda a, b: jnp.matmul(a[:, :-1], b[:-1])))

    def rounded(a, b):  # as cards do, unless told otherwise
        precise = jax.config.jax_default_matmul_precision == "highest"  # type: ignore[attr-defined]
        return jnp.matmul(a, b) * (1.0 if precise else 1.0003)

    warned = arithmetic.products(rounded)
    assert warned.status == "warning"
    assert "JAX_DEFAULT_MATMUL_PRECISION=highest" in warned.told


def turned(scores, mask, density, scope="global"):
    """Of equal scores the higher index stays, and as many are kept."""
    flip = functools.partial(jax.tree.map, lambda x: x[::-1])
    return flip(masks.keep_top(flip(scores), flip(mask), density, scope))


def one_more(scores, mask, density, scope="global"):
    return masks.keep_top(scores, mask, density + 2e-6, scope)


@pytest.mark.parametrize("broken", [turned, one_more])
def test_wrong_selections_are_told(broken):
    failed(arithmetic.selection(broken), "not")


def test_wrong_shares_are_told():
    def alike(mask, density, kernel):
        return allocation.uniform(mask, density)

    failed(arithmetic.allocations(alike), "far from their share")

    def less(mask, density, kernel):
        given = allocation.erdos_renyi(mask, density, kernel)
        return given | {"layer_0": given["layer_0"] - 1 / 1728}

    failed(arithmetic.allocations(less), "the total of ER at density 0.5")


def test_every_criterion_by_name_is_restated():
    assert set(names.CRITERIA) == {*restated.CRITERIA, "synflow", "random"}


SWAPS = {  # what is computed in the place of what
    "lamp": "magnitude",
    "snip": "weight_gradient",
    "wanda": "activation_magnitude",
    "synflow": "magnitude",
    "random": "magnitude",
}


@pytest.mark.parametrize("name", SWAPS)
def test_wrong_criteria_are_told(name):
    assert ranking.scores({name: names.CRITERIA[name]}).status == "ok"
    failed(ranking.scores({name: names.CRITERIA[SWAPS[name]]}), name)


def test_a_wrong_taylor_is_told():
    failed(ranking.taylor(criteria.taylor_squared))


def test_wrong_surgery_is_told():
    def careless(kernel, hessian, density, block):  # nothing makes up for what goes
        _, keep = criteria.obs.sparse_gpt(kernel, hessian, density, block)
        return kernel * keep, keep

    failed(ranking.surgery(careless), "a kernel after surgery")


def test_a_wrong_reshuffling_is_told():
    def lossy(params, mask, key):
        moved = starts.reshuffled(params, mask, key)
        return jax.tree.map(lambda w: w.at[1:].set(w[:-1]), moved)

    failed(ranking.reshuffling(lossy), "in order")
    failed(ranking.reshuffling(lambda params, mask, key: params), "stay where they")


def test_surgery_reads_the_row_that_it_writes_and_no_other():
    """It is found as one that updates an array by itself; its numbers are checked."""
    square, row = jnp.eye(5), jnp.ones((5, 3))
    program = jax.make_jaxpr(lambda w, h: criteria.obs.sparse_gpt(w, h, 0.5))
    assert len(canaries.overlaps(program(row, square).jaxpr)) == 1
    assert "surgery" in doctor.CHECKS


def test_a_wrong_convolution_is_told(monkeypatch):
    monkeypatch.setattr(learning, "CONVOLUTIONS", learning.CONVOLUTIONS[:1])

    @jax.custom_jvp
    def doubtful(y):
        return y

    @doubtful.defjvp
    def _(primals, tangents):
        return primals[0], tangents[0] * 1.001

    def convolve(*args, **options):
        return doubtful(convolution.convolve(*args, **options))

    failed(learning.convolutions(convolve), "gradient for images")

    def cropped(x, kernel, *args, **options):
        return convolution.convolve(x.at[-1, -1].set(0), kernel, *args, **options)

    failed(learning.convolutions(cropped), "values of a 3x3 window")


def test_wrong_gradients_are_told(monkeypatch):
    name = "an MLP"
    monkeypatch.setattr(learning, "NETWORKS", {name: learning.NETWORKS[name]})
    assert learning.gradients().status == "ok"

    def grad(function):
        def of(params):
            found = jax.grad(function)(params)
            first = found["hidden_0"]
            kernel = first["kernel"].at[3, 2].add(1e-3)
            return found | {"hidden_0": first | {"kernel": kernel}}

        return of

    failed(learning.gradients(grad=grad), "hidden_0/kernel: 1 of 1071 wrong")

    def make_loss(apply):
        loss, measure = train.classification(apply)
        return (lambda *args: (loss(*args)[0] + 0.01, None)), measure

    failed(learning.gradients(make_loss), "the loss of an MLP")


def one_step(name: str) -> dict:
    return {name: learning.OPTIMIZERS[name]}


@pytest.mark.parametrize("name", learning.OPTIMIZERS)
def test_steps_are_right(name):
    assert learning.optimizers(named=one_step(name)).status == "ok"


def test_wrong_steps_are_told():
    tx = one_step("adam")

    def faster(loss, sample, tx):
        def update(*args, **extras):
            updates, state = tx.update(*args, **extras)
            return jax.tree.map(lambda u: u * 1.001, updates), state

        more = optax.GradientTransformationExtraArgs(tx.init, update)
        return train.make_train(loss, sample, more)

    failed(learning.optimizers(faster, tx), "3 steps of adam")

    def alive(loss, sample, tx):  # what is pruned is trained on
        step = train.make_train(loss, sample, tx)

        def run(state, mask, *args):
            state, sums = step(state, mask, *args)
            late = jax.tree.map(lambda w: w.at[0, :9].add(1e-30), state.params)
            return state._replace(params=late), sums

        return run

    failed(learning.optimizers(alive, tx), "pruned weights and slots of adam not 0")


def test_trainings_that_do_not_repeat_are_told():
    def forgetful(*args):  # begins its sums anew with every piece
        step = train.make_train(*args)
        return lambda state, mask, data, key, n, sums: step(state, mask, data, key, n)

    failed(learning.repeats(forgetful), "13 + 27 steps in place of 40")

    def restless(*args):
        step = train.make_train(*args)
        like = jax.ShapeDtypeStruct((), jnp.float32)

        def run(*given):
            state, sums = step(*given)
            now = jax.pure_callback(lambda: np.float32(time.monotonic_ns() % 997), like)
            return state, sums | {"loss": sums["loss"] + now}

        return run

    failed(learning.repeats(restless), "other bits after a second training")


def test_other_random_numbers_are_a_warning():
    with jax.default_prng_impl("rbg"):
        warned = machine.settings()
    assert warned.status == "warning"
    assert "jax_default_prng_impl is rbg, usually threefry2x32" in warned.told


def test_a_device_that_is_wrong_and_memory_that_is_short_are_told():
    failed(machine.devices(lambda x: x @ x + 1), "a square on")
    short = machine.room(lambda: (2**28, 2**30))
    assert short.status == "warning"
    assert "0.2 GiB of 1.0 GiB are free" in short.told


def test_locks_and_renames_that_do_not_hold_are_told(tmp_path):
    said = "gets past the lock"
    failed(place.folder(tmp_path, lambda path: True), said)
    failed(place.folder(tmp_path, lambda path: False), "the lock of a run stays")
    failed(place.folder(tmp_path, replace=lambda a, b: None), "does not take the other")

    def copied(source, target):  # the old one is written over, and the new one stays
        if source.is_dir():
            os.replace(source, target)
        else:
            shutil.copyfile(source, target)

    failed(place.folder(tmp_path, replace=copied), "does not take the other's place")

    def refused(source, target):
        raise PermissionError("not here")

    failed(place.folder(tmp_path, replace=refused), "cannot be used: not here")
    assert not list(tmp_path.iterdir())
    missing = place.folder(tmp_path / "a" / "runs")
    assert missing.status == "ok"
    assert str(tmp_path) in missing.told


def test_the_file_system_of_a_network_is_a_warning(tmp_path):
    mounts = tmp_path / "mountinfo"
    line = "36 35 98:0 / {} rw,noatime master:1 - {} /dev/root rw,errors=continue\n"
    mounts.write_text(line.format("/", "ext4") + line.format(tmp_path, "nfs4"))
    assert place.file_system(tmp_path / "x", mounts) == "nfs4"
    assert place.file_system(Path("/"), mounts) == "ext4"
    warned = place.folder(tmp_path, mounts=mounts)
    assert warned.status == "warning"
    assert "(nfs4): a file system of a network" in warned.told
    assert place.file_system(tmp_path, tmp_path / "none") == "unknown"


def test_compiled_programs_that_are_empty_or_open_to_others_are_told(tmp_path):
    folder = tmp_path / ".compiled"
    assert "is not there yet" in place.compiled(folder).told
    folder.mkdir(mode=0o755)
    (folder / "jit_a-cache").write_text("a program")
    (folder / "jit_a-atime").write_text("")
    fine = place.compiled(folder)
    assert fine.status == "ok"
    assert "holds 1 programs, 0 of them empty" in fine.told
    (folder / "jit_b-cache").write_text("")
    assert "1 entries are empty" in place.compiled(folder).told
    folder.chmod(0o777)
    warned = place.compiled(folder)
    assert warned.status == "warning"
    assert "others may put programs there" in warned.told


def test_data_that_are_not_the_published_ones_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    monkeypatch.delenv("LTH_DATA", raising=False)
    assert "as published: none" in machine.files(tmp_path).told
    files = tmp_path / "mnist"
    files.mkdir()
    for name in machine.mnist.IDX_FILES:
        (files / name.removesuffix(".gz")).write_bytes(b"unpacked")
    told = machine.files(tmp_path)
    assert told.status == "ok"
    assert "not compared, for lack of a known MD5: mnist" in told.told
    text = tmp_path / "tinyshakespeare" / "input.txt"
    text.parent.mkdir()
    text.write_text("To be")
    told = machine.files(tmp_path)
    assert told.status == "warning"
    md5 = hashlib.md5(b"To be").hexdigest()
    assert f"not the published files: {text} (MD5 {md5})" in told.told
    monkeypatch.setattr(
        machine,
        "_published",
        lambda: [machine.Known("tinyshakespeare", {"input.txt": md5})],
    )
    assert "as published: tinyshakespeare" in machine.files(tmp_path).told


def test_little_space_is_a_warning(tmp_path):
    assert place.disk(tmp_path, lambda path: 2**29).status == "warning"


def fine(where):
    return doctor.Check("fine", "ok", "it is 1")


def doubtful(where):
    return doctor.Check("doubtful", "warning", "[it] may be 1")


def broken(where):
    raise ZeroDivisionError("1 / 0\nand more")


def test_a_check_that_breaks_down_has_failed():
    (check,) = doctor.examine(doctor.Where(), {"odd": broken})
    assert check == ("odd", "FAILED", "it broke down: ZeroDivisionError: 1 / 0")


def test_a_verdict_is_the_worst_of_its_checks():
    checks = [fine(None), doubtful(None)]
    assert doctor.verdict(checks[:1])["status"] == "ok"
    found = doctor.verdict(checks)
    assert found["status"] == "warning"
    assert found["warnings"] == {"doubtful": "[it] may be 1"}
    assert found["versions"]["jax"] == jax.__version__
    assert "passed, with a warning of doubtful" in doctor.summary(found)
    worst = doctor.verdict([*checks, doctor.Check("sums", "FAILED", "2, not 1")])
    assert worst["status"] == "FAILED"
    assert worst["failures"] == {"sums": "2, not 1"}
    assert doctor.summary(worst) == "wrong: 1 of 3 checks failed: sums"
    assert json.loads(json.dumps(worst)) == worst
    assert doctor.verdict([])["status"] == "FAILED"  # nothing is known


def test_the_command_prints_a_line_a_check_and_exits_by_them(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "CHECKS", {"fine": fine, "doubtful": doubtful})
    assert main.command(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "fine      ok       it is 1"
    assert lines[1] == "doubtful  warning  [it] may be 1"
    assert lines[2].startswith("right: all 2 checks passed")
    monkeypatch.setitem(doctor.CHECKS, "odd", broken)
    assert main.command(["doctor"]) == 1
    assert "odd       FAILED   it broke down" in capsys.readouterr().out
    assert main.command(["doctor", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [check["status"] for check in told] == ["ok", "warning", "FAILED"]
    assert set(told[0]) == {"name", "status", "told"}


def test_the_command_gives_its_folders_on(monkeypatch, tmp_path, capsys):
    def look(where):
        return doctor.Check("look", "ok", f"{where.runs} {where.data_dir}")

    monkeypatch.setattr(doctor, "CHECKS", {"look": look})
    assert main.command(["doctor", "--runs", "a", "--data-dir", "b"]) == 0
    assert "look  ok       a b" in capsys.readouterr().out
