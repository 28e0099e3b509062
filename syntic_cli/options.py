"""The options that subcommands share, and how the others are declared: typed, in panels."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

COMMON, MODEL, METHOD = "Common options", "Models and inputs", "Method"


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


def common(*names: str, help: str, **options: Any) -> Any:
    """An option that most subcommands have."""
    return typer.Option(*names, help=help, rich_help_panel=COMMON, **options)


def model(*names: str, help: str, **options: Any) -> Any:
    """An option that names an input or a model."""
    return typer.Option(*names, help=help, rich_help_panel=MODEL, **options)


def method(*names: str, help: str, **options: Any) -> Any:
    """An option whose default is the preset's."""
    return typer.Option(*names, help=f"{help} [dim](preset)[/]", rich_help_panel=METHOD, **options)


Workspace = Annotated[
    Path,
    common("--workspace", "-w", help="Folder of the run's artifacts.", envvar="SYNTIC_WORKSPACE"),
]
Preset = Annotated[
    str | None,
    common(
        "--preset",
        help="paper, turbo, tiny or a .toml file; else the workspace's, else paper.",
        envvar="SYNTIC_PRESET",
        show_envvar=True,
    ),
]
Device = Annotated[str, common("--device", help="auto, cpu, cuda, cuda:N or mps.")]
Dtype = Annotated[str, common("--dtype", help="auto, float32, bfloat16 or float16.")]
Seed = Annotated[int, common("--seed", help="Decides every random draw.", min=0)]


def _batch_size(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise typer.BadParameter(f"{text!r} is neither auto nor a number of at least 1")
    return int(text)


BatchSize = Annotated[
    int | None,
    common(
        "--batch-size",
        help="Items computed at a time, or auto; not part of the result.",
        parser=_batch_size,
        metavar="<int|auto>",
    ),
]
Compile = Annotated[
    bool | None,
    common(
        "--compile/--no-compile",
        help="Compile the model; by default on CUDA where the corpus is long enough.",
        metavar="",
    ),
]
Output = Annotated[Path | None, common("--output", "-o", help="Write the artifact here.")]
Force = Annotated[bool, common("--force", help="Make the artifact again.", metavar="")]
Retry = Annotated[bool, common("--retry-failed", help="Run only the rows that failed.", metavar="")]
ShardSize = Annotated[int, common("--shard-size", help="Items committed at a time.", min=1)]
Quiet = Annotated[
    bool, common("--quiet", "-q", help="Print results, warnings and errors only.", metavar="")
]

# Accepted where they have no bearing, so that a script can hand the same options to every stage.
NoPreset = Annotated[str | None, typer.Option("--preset", hidden=True)]
NoDevice = Annotated[str, typer.Option("--device", hidden=True)]
NoDtype = Annotated[str, typer.Option("--dtype", hidden=True)]
NoSeed = Annotated[int, typer.Option("--seed", hidden=True)]
NoBatchSize = Annotated[int | None, typer.Option("--batch-size", hidden=True)]

WORKSPACE = Path("syntic-run")
