"""The command line: parses, calls one function, prints. What is slow to import is imported where it is used."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from stabilgan._version import __version__

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


def plainly(function: Callable[P, R]) -> Callable[P, R]:
    """What a user can mend is one line and exit code 2; Ctrl-C is exit code 130."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (ValueError, OSError) as error:
            click.echo(f"stabilgan: {error}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            sys.exit(130)

    return called


class Suggesting(click.Group):
    """A group that suggests the nearest command."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None:
            from stabilgan import spec

            raise click.UsageError(spec.unknown("command", args[0], self.list_commands(ctx)))
        return super().resolve_command(ctx, args)


@click.group(cls=Suggesting, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="stabilgan")
def main() -> None:
    """Makes GAN training stable and shows when it isn't."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # for dotted paths of the user's own


@main.command()
@click.option(
    "--tricks",
    default="replay,minibatch",
    show_default=True,
    help="Arms, such as replay,minibatch or relativistic+r1:weight=10. `stabilgan list` has the names.",
)
@click.option(
    "--workload",
    "workload",
    default="ring",
    show_default=True,
    help="What to train: names with options, comma-separated (ring:modes=16,mnist), or your own file.py:function.",
)
@click.option("--seeds", default="5", show_default=True, help="How many, or which: 5, 3-7, 0,2,9.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps of G in each case.  [default: the workload's]")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds of training in each case, in place of steps.",
)
@click.option(
    "--evaluations", type=click.IntRange(min=1), default=20, show_default=True, help="How often samples are judged."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Folder for records, summary and pictures. Finished cases in it are not run again.",
)
@click.option("--jobs", type=click.IntRange(min=1), help="Cases at a time.  [default: one per core; four on a GPU]")
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of each case on a CPU."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--amp", is_flag=True, help="Train under bfloat16 autocast.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    envvar="STABILGAN_DATA",
    help="Where data sets lie, in torchvision's layout.  [env: STABILGAN_DATA]",
)
@click.option(
    "--save-every",
    type=click.FloatRange(min=0),
    default=20.0,
    show_default=True,
    help="Seconds between two saves of a running case, from which it is taken up after an interruption.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the summary as JSON, and nothing else, to standard output."
)
@plainly
def bench(**options: Any) -> None:
    """Compares tricks on a workload, over seeds, with intervals and cost."""
    from stabilgan.bench import command

    sys.exit(command.bench(**options))


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@plainly
def report(folder: Path, as_json: bool) -> None:
    """Makes table, summary and pictures again from a folder of records."""
    from stabilgan.bench import command

    command.report(folder, as_json)


@main.command("list")
@click.argument("kind", required=False, type=click.Choice(["tricks", "detectors", "workloads", "losses"]))
@click.option("--json", "as_json", is_flag=True, help="For programs: all that is known of each.")
@plainly
def list_(kind: str | None, as_json: bool) -> None:
    """Shows tricks, detectors, workloads and losses, those of installed packages among them."""
    from stabilgan import catalogue

    catalogue.show(kind, as_json)


@main.command("check-trick")
@click.argument("trick")
@click.option("--slow", is_flag=True, help="Also what takes seconds: compiled players.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, and nothing else.")
@plainly
def check_trick(trick: str, slow: bool, as_json: bool) -> None:
    """Holds a trick against every promise that the library's own ones keep, and says which fails and why.

    TRICK is package.module:Class, file.py:Class (whose code is run) or a name, with options: mine.py:Shake:every=1.
    Choose options at which it acts within a few steps.

    Exit code 0: no promise fails. 1: one fails. 2: there is no such trick, or it can't be made.
    """
    from stabilgan.testing import command

    sys.exit(command.run(trick, slow=slow, as_json=as_json))


def options_of(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, in their order."""

    def decorated(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorated


reporting = options_of(
    click.option("--strict", is_flag=True, help="Make an error of what would be skipped or converted."),
    click.option("--json", "as_json", is_flag=True, help="Print the diagnosis as JSON, and nothing else."),
    click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with pictures to FILE."),
    click.option(
        "--fail-on",
        default="any",
        show_default=True,
        metavar="FAILURES",
        help="What makes the exit code 1: any, never, or failures with commas (mode_collapse,memorisation).",
    ),
)
comparing = options_of(
    click.option("--train", metavar="DATA", help="What the generator was trained on: copies of it are looked for."),
    click.option(
        "--features",
        default="auto",
        show_default=True,
        help="pixels, classifier, edges, inception, dinov2, module:callable, or file:saved.npz.",
    ),
    click.option(
        "--weights-dir", type=click.Path(path_type=Path), help="Folder with the weights of inception or dinov2."
    ),
    click.option("--labels", help="The array or column with the labels of the real samples."),
    click.option("--limit", type=click.IntRange(min=1), help="At most so many samples of each."),
    click.option("--seed", type=int, default=0, show_default=True, help="Of all that is drawn."),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
    click.option("--threads", type=click.IntRange(min=1), help="Threads on a CPU.  [default: torch's own]"),
    click.option(
        "--data-dir",
        type=click.Path(path_type=Path),
        envvar="STABILGAN_DATA",
        help="Where known data sets lie, in torchvision's layout.  [env: STABILGAN_DATA]",
    ),
)
losing = click.option("--loss", help="The family of the losses: logistic (bce), hinge, least_squares, wasserstein, ...")


@main.group(cls=Suggesting)
def diagnose() -> None:
    """Finds out whether a GAN has failed, and how: from samples, from a model, or from a log.

    Exit code 0: healthy, or it can't be told. 1: a problem was found. 2: the input can't be used.
    """


@diagnose.command()
@click.argument("real")
@click.argument("fake")
@comparing
@click.option("--save-features", type=click.Path(path_type=Path), help="Keep the features in an .npz, for file:.")
@reporting
@plainly
def samples(**options: Any) -> None:
    """Compares FAKE samples with REAL ones that training did not see.

    Each is a folder of images, an .npy, .npz, .pt, .safetensors, .csv or .parquet file, or a data set by name (mnist).
    """
    from stabilgan.diagnosis import command

    sys.exit(command.run("samples", **options))


@diagnose.command()
@click.argument("target")
@click.option("--weights", type=click.Path(path_type=Path), help="The generator's state dict: .pt, .pth, .safetensors.")
@click.option("--data", required=True, help="Real samples, as for `diagnose samples`.")
@click.option("--discriminator", metavar="TARGET", help="The discriminator: its scores and gradients are read.")
@click.option("--discriminator-weights", type=click.Path(path_type=Path), help="Its state dict.")
@click.option("--latent", type=click.IntRange(min=1), help="Length of a latent.  [default: found]")
@click.option("--samples", "n", type=click.IntRange(min=1), help="How many to draw.  [default: 2500]")
@losing
@comparing
@reporting
@plainly
def model(**options: Any) -> None:
    """Draws from a generator and compares with data; asks the generator, and its discriminator, themselves.

    TARGET builds it (package.module:callable or file.py:callable, whose code is run), or is a TorchScript, torch.export
    or ONNX file.
    """
    from stabilgan.diagnosis import command

    sys.exit(command.run("model", **options))


@diagnose.command()
@click.argument("log")
@click.option("--map", "mapping", multiple=True, metavar="PART=COLUMN", help="Says what a column is: d_loss=Loss_D.")
@losing
@reporting
@plainly
def log(**options: Any) -> None:
    """Reads the dynamics in a training log: text, CSV, JSON lines, TensorBoard events; - is standard input."""
    from stabilgan.diagnosis import command

    sys.exit(command.run("log", **options))
