"""The documentation: its code runs, its diffs are those of the examples, its site builds without a warning."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import example
import pytest

import stabilgan
from stabilgan.spec import signature_options
from stabilgan.testing import CONDITIONS, PROMISES
from stabilgan.tricks import TRICKS

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def blocks(page: Path) -> list[str]:
    """The Python code of a page, in order; what is included from examples is run elsewhere."""
    found = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [code for code in found if "--8<--" not in code]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.stem)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in blocks(page):
        exec(compile(code, page.name, "exec"), names)
    if page.stem == "trick":
        assert names["report"].ok  # type: ignore[attr-defined]
        assert 0 < float(names["moved"]) <= 0.1 + 1e-6  # type: ignore[arg-type]
    if page.stem == "monitoring":
        assert "divergence" in names["game"].readings()  # type: ignore[attr-defined]
        assert (tmp_path / "watch.jsonl").stat().st_size > 100
    if page.stem == "limits":
        assert "relativistic changes the loss" in str(names.get("refused", "relativistic changes the loss"))


def test_the_trick_of_ten_lines_has_ten_lines_and_acts() -> None:
    import play
    import torch

    code = blocks(ROOT / "docs" / "trick.md")
    first = code[0].split("class Clip")[1].splitlines()
    assert len([line for line in ["class", *first[1:]] if line.strip()]) <= 10
    names: dict[str, object] = {}
    for text in (code[0], code[2]):
        exec(compile(text, "trick.md", "exec"), names)
    clip, flat = names["Clip"], names["FlatMiddle"]
    plain, clipped = (play.by_hand(tricks, 2) for tricks in ([], [clip(1e-9)]))  # type: ignore[operator]
    assert not torch.equal(play.params(plain[0]), play.params(clipped[0]))
    for strength, differs in ((0.0, False), (1.0, True)):
        with_trick = play.by_hand([flat(strength)], 3)  # type: ignore[operator]
        assert play.same(with_trick[1], play.by_hand([], 3)[1]) is not differs


@pytest.mark.parametrize("name", sorted(example.diffs()))
def test_a_diff_taken_back_leaves_a_loop_without_games(name: str) -> None:
    """`source` fails where a hunk is not in the example, exactly once."""
    before = example.source(name, before=True)
    loops = [node for node in ast.walk(ast.parse(before)) if isinstance(node, ast.FunctionDef) and node.name != "main"]
    words = {n.attr for f in loops for n in ast.walk(f) if isinstance(n, ast.Attribute)}
    words |= {n.id for f in loops for n in ast.walk(f) if isinstance(n, ast.Name)}
    assert not words & {"game", "game_a", "game_b", "critic", "KerasOptimizer", "GameCallback"}


MARKED = [n for n in sorted(example.diffs()) if "# was: " in (ROOT / "examples" / f"{n}.py").read_text()]


@pytest.mark.parametrize("name", MARKED)
def test_a_diff_says_the_same_as_the_marks_in_the_example(name: str) -> None:
    """Whose tests run what those marks restore, and hold it against the loop with hooks."""
    assert example.source(name, before=True) == example.was(name)


def test_every_framework_has_a_diff_and_every_diff_an_example() -> None:
    assert set(example.diffs()) == {
        *("dcgan", "cyclegan", "keras_gan", "lightning_gan", "fabric_gan", "accelerate_gan", "ignite_gan")
    }


def test_a_hunk_is_told_apart() -> None:
    assert example.sides(" a\n-b\n+c\n") == ("a\nb\n", "a\nc\n")
    with pytest.raises(AssertionError, match="begin with a blank"):
        example.sides("a\n")


def generated() -> Any:
    """The hook that makes a page for each trick, and those pages."""
    loading = importlib.util.spec_from_file_location("docs_tricks", ROOT / "docs" / "tricks.py")
    assert loading is not None
    assert loading.loader is not None
    module = importlib.util.module_from_spec(loading)
    loading.loader.exec_module(module)
    return module


def test_every_trick_has_a_page_that_says_all_that_its_class_says() -> None:
    pages = generated().pages()
    assert pages.keys() == {"index", "conditions", *TRICKS}
    for name, trick in TRICKS.items():
        page = pages[name]
        assert f"# {name}\n" in page
        for said in (trick.when, trick.source.replace("|", "\\|"), *trick.limits.values(), *trick.conflicts.values()):
            assert said in page
        for option in signature_options(trick):
            assert f"| `{option.name}` |" in page
        assert f".{trick.__name__}\n" in page
        assert f"[{name}]({name}.md)" in pages["index"]


def test_the_table_of_conditions_says_what_the_classes_say() -> None:
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in generated().pages()["conditions"].partition("## ")[0].splitlines()
        if line.startswith("|")
    ]
    assert head == ["trick", *CONDITIONS]
    told = {re.findall(r"\[(\w+)\]", row[0])[0]: dict(zip(CONDITIONS, row[1:], strict=True)) for row in rows}
    assert told.keys() == TRICKS.keys()
    for name, cells in told.items():
        limits = TRICKS[name].limits
        assert {word for word, cell in cells.items() if cell != "✓"} == limits.keys() & CONDITIONS.keys()
        for word, cell in cells.items():
            if cell != "✓":
                kind = "refused" if limits[word].startswith("refused") else "in part"
                assert cell == f"[{kind}]({name}.md#what-it-cant)"
    assert told["packing"]["labels"].startswith("[refused]")
    assert told["gdpp"]["g first"].startswith("[in part]")


def test_every_condition_is_held_by_a_promise_or_says_where_else() -> None:
    held = {promise.condition for promise in PROMISES} - {None}
    assert held | generated().ELSEWHERE.keys() == CONDITIONS.keys()
    assert not held & generated().ELSEWHERE.keys()


def test_the_words_for_limits_in_the_guide_are_those_that_the_check_knows() -> None:
    guide = (ROOT / "docs" / "trick.md").read_text()
    assert (
        dict(re.findall(r"^\| `(.+)` \| (.+) \|$", guide.partition("| word in `limits`")[2], re.MULTILINE))
        == CONDITIONS
    )


class Text(HTMLParser):
    """What a page shows, and where its links go."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.names, self.links = "", set[str](), list[str]()

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.names |= {given["id"] or ""} if "id" in given else set()
        self.links += [given["href"] or ""] if tag == "a" and "href" in given else []


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = {}
    for file in tmp_path.rglob("*.html"):
        pages[file.relative_to(tmp_path)] = seen = Text()
        seen.feed(file.read_text())
    there = {name.rpartition(".")[2] for seen in pages.values() for name in seen.names if name.startswith("stabilgan.")}
    assert set(stabilgan.__all__) - there <= {"__version__", "SELECT", "CHANGE", "STEP"}
    assert "1 D forward, 1 D backward" in pages[Path("tricks/r1/index.html")].text
    assert pages[Path("tricks/conditions/index.html")].text.count("✓") > 500
    assert "self.game_a.critic(fake_a)" in pages[Path("hooks/index.html")].text
    assert "game.real(real, real_condition)" in pages[Path("kinds/index.html")].text
    for path, seen in pages.items():
        assert "--8<--" not in seen.text, f"a snippet of {path} was not included"
        for link in seen.links if path.name != "404.html" else []:
            where, _, name = link.partition("#")
            if not re.match(r"https?:|mailto:", link):
                target = Path(os.path.normpath(path.parent / where)) if where else path
                target = target if target.suffix else target / "index.html"
                assert (tmp_path / target).exists(), f"{path}: {link} leads nowhere"
                assert not name or target not in pages or name in pages[target].names, f"{path}: {link} leads nowhere"
