"""A package is built and installed into a virtual environment: what it registers is there, what is broken is named."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import pytest

import stabilgan

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

PACKAGE = "shaky 0.1"
BROKEN = {
    (
        "trick",
        "unimportable",
    ): "shaky.unimportable:Shake raises ModuleNotFoundError: No module named 'a_module_that",
    ("trick", "missing"): "shaky.good:NoSuchTrick raises AttributeError",
    ("trick", "no_trick"): "expected a subclass of stabilgan.Trick",
    ("trick", "nameless"): "has no name; give the class one: name = 'nameless'",
    ("trick", "misnamed"): "is named 'shake'; expected the name under which it is registered",
    ("trick", "listed"): "conflicts is ['r1']; expected each name with what goes wrong",
    ("trick", "r1"): "the library has a trick of that name already",
    ("detector", "loud"): "expected a subclass of stabilgan.Detector",
    ("workload", "constant"): "is a int; expected a function that returns a Workload",
}


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


SEVERAL = """
import contextlib, io, json, sys
from stabilgan.cli import main

done = []
for words in json.load(sys.stdin):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words, prog_name="stabilgan")
        except SystemExit as ended:
            code = ended.code or 0
    done.append([code, out.getvalue(), err.getvalue()])
json.dump(done, sys.stdout)
"""


class Environment:
    """A virtual environment that sees what this one has, and the package."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.python = folder / "bin" / "python"
        site = next((folder / "lib").glob("python*/site-packages"))
        here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), str(Path(stabilgan.__file__).parents[1])}
        (site / "here.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in here))
        self.folder = folder

    def install(self, source: Path) -> None:
        words = ["--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-build-isolation", "--no-deps"]
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), *words, str(source)]
        subprocess.run(pip, check=True, capture_output=True, text=True, env=self._variables())

    def run(self, *words: str) -> Done:
        done = subprocess.run(
            [self.python, *words], cwd=self.folder, env=self._variables(), capture_output=True, text=True
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def run_each(self, commands: dict[str, str]) -> dict[str, Done]:
        """Several in one process, since each would wait for torch."""
        done = subprocess.run(
            [self.python, "-c", SEVERAL],
            cwd=self.folder,
            env=self._variables(),
            input=json.dumps([words.split() for words in commands.values()]),
            capture_output=True,
            text=True,
            check=True,
        )
        return dict(zip(commands, (Done(*each) for each in json.loads(done.stdout)), strict=True))

    @staticmethod
    def _variables() -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("plugins")
    shutil.copytree(Path(__file__).parent / "shaky", folder / "source")
    made = Environment(folder / "environment")
    made.install(folder / "source")
    return made


COMMANDS = {
    "refused": "bench --tricks unimportable",
    "nameless": "check-trick nameless",
    "misspelt": "bench --tricks shakes",
    "shake": "check-trick shaky.good:Shake:sigma=0.2 --json",
    **{n: f"check-trick {n} --json" for n in ("discarded", "globally_noisy", "forgetful", "asking", "never_off")},
    "for people": "check-trick asking",
    "list": "list",
    "list as json": "list --json",
    "tricks as json": "list tricks --json",
}


@pytest.fixture(scope="module")
def ran(environment: Environment) -> dict[str, Done]:
    return environment.run_each(COMMANDS)


def test_the_good_trick_keeps_every_promise(ran: dict[str, Done]) -> None:
    code, out, _ = ran["shake"]
    report = json.loads(out)
    assert (code, report["ok"], report["name"]) == (0, True, "shake")
    assert {p["verdict"] for p in report["promises"]} == {"holds", "not asked"}


@pytest.mark.parametrize(
    ("name", "promise", "why"),
    [
        ("discarded", "gradient", "penalty('d') gave a value whose gradient is zero"),
        ("globally_noisy", "own generator", "a step draws from torch's global generator"),
        ("forgetful", "resume", "taken up after step 1, the run ends otherwise"),
        ("asking", "no waiting", "_local_scalar_dense inside a step makes the host wait"),
        ("never_off", "off", "after 5 steps at zero strength G is not what it is without the trick"),
    ],
)
def test_a_broken_trick_is_caught_and_the_promise_named(
    name: str, promise: str, why: str, ran: dict[str, Done]
) -> None:
    code, out, _ = ran[name]
    failures = {p["promise"]: p["why"] for p in json.loads(out)["promises"] if p["verdict"] == "fails"}
    assert code == 1
    assert why in failures[promise]
    related = {"forgetful": {"accumulate", "labels"}, "discarded": {"acts"}}
    assert failures.keys() - {promise} <= related.get(name, set())


def test_people_are_told_in_lines(ran: dict[str, Done]) -> None:
    code, out, _ = ran["for people"]
    assert code == 1
    assert "FAILS  no waiting" in out
    assert re.search(r"asking, played with points: 1 of \d+ promises fail: no waiting$", out.rstrip())
    assert max(map(len, out.splitlines())) <= 100


def test_what_is_registered_is_in_the_list(ran: dict[str, Done]) -> None:
    found = json.loads(ran["list as json"].out)
    entries = {kind: {e["name"]: e for e in found[kind]} for kind in ("tricks", "detectors", "workloads", "losses")}
    shake = entries["tricks"]["shake"]
    assert (shake["package"], shake["class"], shake["off"]) == (PACKAGE, "shaky.good:Shake", {"sigma": 0.0})
    assert shake["options"] == [{"name": "sigma", "type": "float", "default": 0.1}]
    assert (entries["detectors"]["quiet"]["package"], entries["workloads"]["blobs"]["package"]) == (PACKAGE, PACKAGE)
    assert entries["tricks"]["r1"]["package"] is None
    assert f"of {PACKAGE}" in ran["list"].out


def test_what_is_broken_is_named_and_does_not_break_the_rest(ran: dict[str, Done]) -> None:
    broken = {(b["kind"], b["name"]): b["why"] for b in json.loads(ran["list as json"].out)["broken"]}
    assert broken.keys() == BROKEN.keys()
    assert all(why in broken[which] for which, why in BROKEN.items())
    assert {b["kind"] for b in json.loads(ran["tricks as json"].out)["broken"]} == {"trick"}
    assert (ran["list as json"].code, ran["list as json"].err, ran["list"].code) == (0, "", 0)
    assert len(ran["list"].err.splitlines()) == len(BROKEN)
    for line in ran["list"].err.splitlines():
        assert line.startswith("stabilgan: ")
        assert f"of the package {PACKAGE}: " in line


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("refused", BROKEN["trick", "unimportable"]),
        ("nameless", BROKEN["trick", "nameless"]),
        ("misspelt", "no trick named 'shakes'; did you mean 'shake'?"),
    ],
)
def test_a_broken_one_that_is_asked_for_is_refused_in_one_line(command: str, why: str, ran: dict[str, Done]) -> None:
    code, _, err = ran[command]
    assert (code, len(err.splitlines())) == (2, 1)
    assert why in err


def test_names_of_a_package_are_used_like_the_librarys_own(environment: Environment) -> None:
    asked = "bench --tricks shake:sigma=0.2 --workload blobs:width=4 --seeds 1 --steps 10 --jobs 1 --json --out results"
    code, out, err = environment.run("-m", "stabilgan", *asked.split())
    assert code == 0, err
    assert "shake:sigma=0.2" in out


def test_a_detector_watches_by_its_name_and_is_not_imported_before(environment: Environment) -> None:
    code = """if True:
        import sys, stabilgan
        from stabilgan import R1, tricks
        assert not any(module.startswith("shaky") for module in sys.modules)
        print(stabilgan.Watch("collapse,quiet:patience=3").detectors[1])
    """
    assert environment.run("-c", code) == (0, "Quiet(patience=3)\n", "")
