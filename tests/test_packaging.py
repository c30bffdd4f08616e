"""What goes with the package names what is there, and one version."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

import lth

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FLOWS = [*(ROOT / ".github" / "workflows").glob("*.yml")]
TEXTS = {
    str(path.relative_to(ROOT)): path.read_text()
    for pattern in (".github/**/*.yml", "packaging/*", "docs/*.md", "docs/howto/*.md")
    for path in ROOT.glob(pattern)
}
TEXTS |= {
    name: (ROOT / name).read_text()
    for name in ("CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "Dockerfile")
}


def test_the_version_is_in_one_place():
    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "lth/__init__.py"
    told = yaml.safe_load(TEXTS["CITATION.cff"])
    assert told["version"] == lth.__version__
    first = re.search(r"^## (.+)$", TEXTS["CHANGELOG.md"], re.M)
    assert first
    assert first[1] == lth.__version__


def test_the_citation_is_whole():
    told = yaml.safe_load(TEXTS["CITATION.cff"])
    assert {"cff-version", "message", "title", "authors", "license"} <= set(told)
    assert told["license"] == PROJECT["project"]["license"]


def test_flows_use_targets_and_files_that_are_there():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert len(FLOWS) == 2
    lines = []
    for path in FLOWS:
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            lines += [step["run"] for step in job["steps"] if "run" in step]
    made = {line.split()[1] for line in lines if line.startswith("make ")}
    assert made
    assert made <= targets
    scripts = [line.split()[0] for line in lines if "/" in line.split()[0]]
    assert scripts
    for script in scripts:
        assert (ROOT / script).stat().st_mode & 0o100, script
    ours = (ROOT / ".ci" / "run").read_text()
    # Here the long tests are left out.
    parts = made - {"test-all"} | {"test", "notebooks"}
    called = {t for t in targets if re.search(rf"^make {t}( &.*)?$", ours, re.M)}
    assert called == parts


def test_flows_try_the_versions_that_are_promised():
    (path,) = [path for path in FLOWS if path.stem == "tests"]
    jobs = yaml.safe_load(path.read_text())["jobs"]
    tried = jobs["tests"]["strategy"]["matrix"]["python"]
    said = re.findall(r"Python :: (3\.\d+)", str(PROJECT["project"]["classifiers"]))
    assert tried == said
    assert PROJECT["project"]["requires-python"] == f">={tried[0]}"


def test_issue_forms_are_forms():
    forms = list((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
    assert len(forms) == 4
    for path in forms:
        form = yaml.safe_load(path.read_text())
        if path.stem == "config":
            continue
        assert {"name", "description", "body"} <= set(form), path
        for part in form["body"]:
            assert part["type"] in ("textarea", "input"), path
            assert part["id"], path
            assert part["attributes"]["label"], path


def test_hooks_are_of_tools_that_the_extra_brings():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = [hook["entry"].split()[0] for repo in hooks for hook in repo["hooks"]]
    extra = " ".join(PROJECT["project"]["optional-dependencies"]["dev"])
    assert all(entry == "python" or entry in extra for entry in entries)


def test_files_that_are_named_are_there():
    text = TEXTS["CONTRIBUTING.md"] + TEXTS["Dockerfile"]
    named = set(re.findall(r"\b((?:lth|tests|docs|packaging)/[\w/]+\.\w+)\b", text))
    assert len(named) >= 9
    assert not [name for name in named if not (ROOT / name).exists()]


def test_the_image_copies_what_the_package_is_made_of():
    ignored = (ROOT / ".dockerignore").read_text()
    assert re.search(r"^\*$", ignored, re.M)
    needed = {"lth", "pyproject.toml", PROJECT["project"]["readme"], "LICENSE"}
    needed |= {"constraints"}
    assert needed <= set(re.findall(r"^!(.+)$", ignored, re.M))
    assert all((ROOT / name).exists() for name in needed)


@pytest.mark.parametrize("name", ["0.0.0", "not-a-version"])
def test_a_release_of_another_version_is_refused(name):
    script = [str(ROOT / "packaging" / "release.sh"), name]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"this is version {lth.__version__}, not {name}" in done.stderr


def test_the_criterion_of_the_ten_minutes_is_one():
    (block,) = re.findall(r"```python\n(.*?)```", TEXTS["CONTRIBUTING.md"], re.S)
    lines = [line.removeprefix("   ") for line in block.splitlines()]
    found: dict = {}
    exec("\n".join(lines), found)
    assert found["energy"]({"a": lth.masks.tree.jnp.array([2.0])})["a"] == 4
