"""Options of subcommands: those of a settings class made from its fields, the others by hand."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand

from .errors import SynticError, shown
from .settings import COMMON, METHOD, MODEL, CorpusSettings, Field, Run, fields_of

Command = TypeVar("Command", bound=Callable[..., None])


class Table(str, Enum):
    """Output formats of evaluate and inspect."""

    table = "table"
    json = "json"


class Format(str, Enum):
    """Output formats of caption."""

    table = "table"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"
    txt = "txt"
    metadata = "metadata"


class ExportFormat(str, Enum):
    """Formats of export."""

    imagefolder = "imagefolder"
    webdataset = "webdataset"
    parquet = "parquet"
    coco = "coco"
    sidecar = "sidecar"


def _option(*names: str, **options: Any) -> Any:
    # Whether a file may be read is told in a line by whoever reads it.
    return typer.Option(*names, readable=False, **options)


def common(*names: str, help: str, **options: Any) -> Any:
    """An option that most subcommands have."""
    return _option(*names, help=help, rich_help_panel=COMMON, **options)


def model(*names: str, help: str, **options: Any) -> Any:
    """An option that names an input or a model."""
    return _option(*names, help=help, rich_help_panel=MODEL, **options)


def method(*names: str, help: str, **options: Any) -> Any:
    """An option that changes what is computed."""
    return _option(*names, help=help, rich_help_panel=METHOD, **options)


Workspace = Annotated[
    Path,
    common("--workspace", "-w", help="Folder of the run's artifacts.", envvar="SYNTIC_WORKSPACE"),
]
Preset = Annotated[
    str | None,
    common(
        "--preset",
        help="paper, turbo, laptop, tiny or a .toml file; else the workspace's, else paper where "
        "there is a CUDA device and tiny where there is none.",
        envvar="SYNTIC_PRESET",
        show_envvar=True,
    ),
]
TEXTS = "Texts: .txt, .jsonl, .csv, COCO or Karpathy JSON, - for stdin"
CorpusFile = Annotated[str, typer.Argument(help=f"{TEXTS}.")]
CorpusOrScenes = Annotated[
    str, typer.Argument(metavar="CORPUS", help=f"{TEXTS}; or a composed.h5.")
]
# torch takes no larger one.
MOST_SEED = 2**63 - 1
Seed = Annotated[int, common("--seed", help="Decides every random draw.", min=0, max=MOST_SEED)]
Compile = Annotated[
    bool | None,
    common(
        "--compile/--no-compile",
        help="Compile the model; by default on CUDA where the corpus is long enough.",
        metavar="",
    ),
]
DryRun = Annotated[
    bool,
    common(
        "--dry-run",
        help="Only say what it will take, from a trial of a few items.",
        metavar="",
    ),
]
Output = Annotated[Path | None, common("--output", "-o", help="Write the artifact here.")]

# Accepted where they have no bearing, so that a script can hand the same options to every stage.
NoPreset = Annotated[str | None, typer.Option("--preset", hidden=True)]
NoSeed = Annotated[int, typer.Option("--seed", hidden=True)]

WORKSPACE = Path("syntic-run")


class Careful(TyperCommand):
    """A subcommand that refuses what a variable without a value leaves of an option: nothing.

    A path would make the working folder of it. Nor does a path keep the slash by which a person
    means a folder where the output is a file.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        for parameter in self.get_params(ctx):
            values = given.get(parameter.name or "")
            flag = parameter.opts[0]
            flag = flag if flag.startswith("-") else flag.upper()
            for value in values if isinstance(values, list | tuple) else [values]:
                if value == "":
                    raise SynticError(f"{flag}: an empty name was given; is a variable unset?")
            is_file = parameter.name == "output" or (
                parameter.name == "target" and given.get("to") == "coco"
            )
            if is_file and str(values).endswith("/"):
                raise SynticError(
                    f"{flag} {shown(values)}: is the name of a folder; name a file, in it or"
                    " elsewhere"
                )
        return super().parse_args(ctx, args)


def takes(
    *kinds: type, corpus: bool = False, hides: tuple[str, ...] = ("keep",)
) -> Callable[[Command], Command]:
    """Give a subcommand an option for each field of settings classes and of `Run`.

    The function takes them in its `**given`, which Typer sees as ordinary parameters.

    Args:
        kinds: the stage's settings classes, whose defaults are the preset's.
        corpus: whether it reads a corpus.
        hides: fields of `Run` that have no bearing on the stage, accepted all the same.
    """
    settings = [field for kind in kinds for field in fields_of(kind)]
    named = {field.name for field in settings}
    run = [f for f in fields_of(Run) if f.name not in named and f.name != "preset"]
    options = [_parameter(CorpusSettings, f) for f in fields_of(CorpusSettings) if corpus]
    options += [_parameter(None, field) for field in settings]
    options += [_parameter(Run, field, hidden=field.name in hides) for field in run]

    def extend(command: Command) -> Command:
        signature = inspect.signature(command)
        hints = get_type_hints(command, include_extras=True)
        own = [p.replace(annotation=hints[p.name]) for p in signature.parameters.values()]
        # Typer calls by keyword, and shows options in this order.
        keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own[:-1]]
        parameters = [*keyword, *options]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return extend


def _parameter(kind: type | None, field: Field, *, hidden: bool = False) -> inspect.Parameter:
    """A field as a parameter that Typer makes an option of; its default is the one that it has in
    its class, or the preset's where there is no class."""
    option, extras = field.option, dict[str, Any]()
    if field.type is bool:
        extras["metavar"] = ""
    if option.auto:
        extras.update(parser=_number_or_auto, metavar="<int|auto>")
    where = " [dim](preset)[/]" if kind is None and option.panel == METHOD else ""
    if option.envvar:
        extras.update(envvar=option.envvar, show_envvar=True)
    names = option.names or ("--" + field.name.replace("_", "-"),)
    declared = typer.Option(
        *names, help=option.help + where, rich_help_panel=option.panel, hidden=hidden, **extras
    )
    optional = kind is None or field.optional
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None if optional else getattr(kind, field.name),
        annotation=Annotated[field.type | None if optional else field.type, declared],
    )


def _number_or_auto(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise typer.BadParameter(f"{text!r} is neither auto nor a number of at least 1")
    return int(text)
