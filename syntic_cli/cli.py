"""The command line: one short function a subcommand. It parses options and calls a stage."""

from __future__ import annotations

import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from . import __version__, console
from .errors import Interrupted, SynticError
from .options import (
    WORKSPACE,
    Compile,
    Format,
    NoPreset,
    NoSeed,
    Output,
    Preset,
    Seed,
    Table,
    Workspace,
    common,
    model,
    takes,
)
from .presets import DEFAULT, load_preset, resolve
from .settings import (
    CaptionSettings,
    DetectSettings,
    EncodeSettings,
    OptimizeSettings,
    ProjectSettings,
    Run,
    SynthesizeSettings,
    TrainSettings,
    fields_of,
)

Settings = TypeVar("Settings")
STAGES, USE = "Stages", "Use"
# What has no bearing on a stage that computes everything at once, or on no model at all.
AT_ONCE = ("shard_size", "retry_failed", "keep")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Turn a text corpus into an image captioner, with no real image in training.\n\n"
        "[bold]First captions:[/]  syntic caption photos/*.jpg\n\n"
        "[bold]The whole chain:[/] syntic synthesize corpus.txt --preset tiny, then encode, "
        "optimize, detect, project, train, caption photos/*.jpg, evaluate --references refs.json"
    ),
)


def _preset_name(given: str | None, workspace: Path) -> str:
    """The option's or variable's preset, else the workspace's, else the default."""
    from .artifacts.workspace import remembered_preset

    return given or remembered_preset(workspace) or DEFAULT


def _run(given: dict[str, Any], **more: Any) -> Run:
    names = {field.name for field in fields_of(Run)}
    return Run(**{name: value for name, value in given.items() if name in names}, **more)


def _chosen(
    kind: type[Settings],
    given: dict[str, Any],
    workspace: Path,
    preset: str | None,
    output: Path | None,
) -> tuple[Settings, Run]:
    """A stage's settings and how it runs, from the options given over the preset."""
    name = _preset_name(preset, workspace)
    own = {field.name for field in fields_of(kind)}
    settings = resolve(kind, load_preset(name), **{n: v for n, v in given.items() if n in own})
    in_workspace = output is None or output.parent.resolve() == workspace.resolve()
    remembered = str(Path(name).resolve()) if name.endswith(".toml") else name
    rest = {n: value for n, value in given.items() if n not in own}
    return settings, _run(rest, preset=remembered if in_workspace else None)


@app.command(rich_help_panel=STAGES, epilog="Example: syntic synthesize corpus.txt --preset tiny")
@takes(SynthesizeSettings)
def synthesize(
    corpus: Annotated[
        str, typer.Argument(help="Texts: .txt, .jsonl, .csv, COCO or Karpathy JSON, - for stdin.")
    ],
    workspace: Workspace = WORKSPACE,
    preset: Preset = None,
    text_field: Annotated[
        str | None,
        model(
            "--text-field",
            help="Field of the texts, if not caption, text, sentence, raw or comment.",
        ),
    ] = None,
    split: Annotated[str | None, model("--split", help="Split of the corpus to take.")] = None,
    encoding: Annotated[str, model("--encoding", help="Encoding of the corpus.")] = "utf-8",
    max_words: Annotated[
        int | None, model("--max-words", help="Leave out longer texts.", min=1)
    ] = None,
    sample: Annotated[
        float | None, model("--sample", help="Share of the texts to draw, such as 0.1.")
    ] = None,
    compiled: Compile = None,
    seed: Seed = 0,
    output: Output = None,
    **given: Any,
) -> None:
    """Generate an image for every text of a corpus."""
    from .corpus import read_corpus
    from .stages.synthesize import synthesize as stage

    texts = read_corpus(
        corpus,
        text_field=text_field,
        split=split,
        encoding=encoding,
        max_words=max_words,
        sample=sample,
        seed=seed,
    )
    settings, run = _chosen(SynthesizeSettings, given, workspace, preset, output)
    for note in [*texts.notes, texts.summary()]:
        console.note(note, quiet=run.quiet)
    stage(texts, workspace, settings, run, seed=seed, compiled=compiled, output=output)


@app.command(rich_help_panel=STAGES, epilog="Example: syntic encode")
@takes(EncodeSettings)
def encode(
    workspace: Workspace = WORKSPACE,
    preset: Preset = None,
    synthetic: Annotated[Path | None, model("--synthetic", help="The images.")] = None,
    compiled: Compile = None,
    _seed: NoSeed = 0,
    output: Output = None,
    **given: Any,
) -> None:
    """Encode images and texts with a dual encoder (CLIP)."""
    from .stages.encode import encode as stage

    settings, run = _chosen(EncodeSettings, given, workspace, preset, output)
    stage(workspace, settings, run, compiled=compiled, synthetic=synthetic, output=output)


@app.command(rich_help_panel=STAGES, epilog="Example: syntic optimize --epochs 50 --force")
@takes(OptimizeSettings, hides=AT_ONCE)
def optimize(
    workspace: Workspace = WORKSPACE,
    preset: Preset = None,
    features: Annotated[Path | None, model("--features", help="The features.")] = None,
    seed: Seed = 0,
    output: Output = None,
    **given: Any,
) -> None:
    """Refine the image features against their texts (equations 1 and 2)."""
    from .stages.optimize import optimize as stage

    settings, run = _chosen(OptimizeSettings, given, workspace, preset, output)
    stage(workspace, settings, run, seed=seed, features=features, output=output)


@app.command(rich_help_panel=STAGES, epilog="Example: syntic detect --threshold 0.6")
@takes(DetectSettings)
def detect(
    workspace: Workspace = WORKSPACE,
    preset: Preset = None,
    synthetic: Annotated[Path | None, model("--synthetic", help="The images.")] = None,
    _seed: NoSeed = 0,
    output: Output = None,
    **given: Any,
) -> None:
    """Detect the objects in every synthetic image (equation 4)."""
    from .stages.detect import detect as stage

    settings, run = _chosen(DetectSettings, given, workspace, preset, output)
    stage(workspace, settings, run, synthetic=synthetic, output=output)


@app.command(rich_help_panel=STAGES, epilog="Example: syntic project --temperature 0.0125")
@takes(ProjectSettings, hides=AT_ONCE)
def project(
    workspace: Workspace = WORKSPACE,
    preset: Preset = None,
    features: Annotated[
        Path | None,
        model("--features", help="The features; features.h5 leaves the optimisation out."),
    ] = None,
    support: Annotated[
        Path | None, model("--support", help="Features file whose texts are the support set.")
    ] = None,
    _seed: NoSeed = 0,
    output: Output = None,
    **given: Any,
) -> None:
    """Project the image features on the support set of texts (equation 3)."""
    from .stages.project import project as stage

    settings, run = _chosen(ProjectSettings, given, workspace, preset, output)
    stage(workspace, settings, run, features=features, support=support, output=output)


@app.command(rich_help_panel=STAGES, epilog="Example: syntic train --no-objects -o plain.h5")
@takes(TrainSettings, hides=AT_ONCE)
def train(
    workspace: Workspace = WORKSPACE,
    preset: Preset = None,
    projected: Annotated[Path | None, model("--projected", help="The projected features.")] = None,
    detected: Annotated[Path | None, model("--objects", help="The detected objects.")] = None,
    support: Annotated[
        Path | None, model("--support", help="The support set's file, where it has moved.")
    ] = None,
    compiled: Compile = None,
    seed: Seed = 0,
    output: Output = None,
    **given: Any,
) -> None:
    """Train the caption decoder (equations 5 and 6)."""
    from .stages.train import train as stage

    settings, run = _chosen(TrainSettings, given, workspace, preset, output)
    stage(
        workspace,
        settings,
        run,
        seed=seed,
        compiled=compiled,
        projected=projected,
        objects=detected,
        support=support,
        output=output,
    )


@app.command(rich_help_panel=USE, epilog="Example: syntic caption photos/*.jpg --format jsonl")
@takes(CaptionSettings, hides=())
def caption(
    photos: Annotated[
        list[str], typer.Argument(help="Image files or folders; - for a list on standard input.")
    ],
    workspace: Workspace = WORKSPACE,
    preset: Preset = None,
    captioner: Annotated[
        Path | None, model("--captioner", help="captioner.h5, if not the workspace's or shipped.")
    ] = None,
    support: Annotated[
        Path | None, model("--support", help="Features file whose texts replace the support set.")
    ] = None,
    clip: Annotated[
        str | None, model("--clip", help="Where the captioner's CLIP model is now.")
    ] = None,
    detector: Annotated[
        str | None,
        model("--detector", help="Where the captioner's detector is now, or one for --objects."),
    ] = None,
    objects: Annotated[
        bool,
        model(
            "--objects",
            help="Show objects, too, where the captioner uses none (the preset's detector).",
            metavar="",
        ),
    ] = False,
    recursive: Annotated[
        bool, model("--recursive", "-r", help="Look into subfolders, too.", metavar="")
    ] = False,
    format: Annotated[Format, common("--format", "-f", help="How to print.")] = Format.table,
    _seed: NoSeed = 0,
    output: Output = None,
    **given: Any,
) -> None:
    """Caption photos, with the workspace's captioner or the one that ships with syntic."""
    from . import printing
    from .photos import list_photos
    from .stages.caption import caption_and_read, shipped_preset

    listed = list_photos(photos, recursive=recursive, stdin=sys.stdin)
    preset = preset or shipped_preset(workspace, captioner)
    settings, run = _chosen(CaptionSettings, given, workspace, preset, output)
    for note in listed.notes:
        console.note(note, quiet=run.quiet)
    values = load_preset(_preset_name(preset, workspace))
    captions = caption_and_read(
        listed.photos,
        workspace,
        settings,
        run,
        captioner=captioner,
        support=support,
        clip=clip,
        detector=detector,
        objects=resolve(DetectSettings, values, model=detector) if objects or detector else None,
        output=output,
    )
    printing.print_captions(captions, format.value)


@app.command(rich_help_panel=USE, epilog="Example: syntic evaluate --references refs.json")
@takes(None, hides=("device", "dtype", "batch_size", "shard_size", "retry_failed"))
def evaluate(
    references: Annotated[
        Path, model("--references", help="Any format of texts that names a photo for each.")
    ],
    captions: Annotated[
        Path | None,
        typer.Argument(help="captions.h5, COCO results, or what caption printed; else the run's."),
    ] = None,
    workspace: Workspace = WORKSPACE,
    split: Annotated[str | None, model("--split", help="Split of the references.")] = None,
    encoding: Annotated[str, model("--encoding", help="Encoding of text files.")] = "utf-8",
    photos: Annotated[
        list[str] | None,
        model("--photos", help="The photos of a .txt of captions, a folder or a file each time."),
    ] = None,
    metrics: Annotated[
        str,
        model(
            "--metrics",
            help="Comma-separated, or all; SPICE needs its CoreNLP jars.",
            show_default="all but SPICE",
        ),
    ] = "BLEU-1,BLEU-2,BLEU-3,BLEU-4,METEOR,ROUGE-L,CIDEr",
    format: Annotated[Table, common("--format", "-f", help="How to print.")] = Table.table,
    _preset: NoPreset = None,
    _seed: NoSeed = 0,
    output: Output = None,
    **given: Any,
) -> None:
    """Score captions with BLEU, METEOR, ROUGE-L and CIDEr."""
    from . import printing
    from .photos import find_photos
    from .stages.evaluate import evaluate as stage

    names = [name.strip() for name in metrics.split(",") if name.strip()]
    run = _run(given)
    found = stage(
        references,
        workspace,
        names,
        run,
        captions=captions,
        photos=find_photos(photos) if photos else None,
        split=split,
        encoding=encoding,
        output=output,
    )
    printing.print_evaluation(found, format.value, quiet=run.quiet)


@app.command(rich_help_panel=USE, epilog="Example: syntic inspect syntic-run/captioner.h5")
def inspect(
    artifact: Annotated[Path, typer.Argument(help="An artifact, or a workspace folder.")],
    format: Annotated[Table, common("--format", "-f", help="How to print.")] = Table.table,
) -> None:
    """Show what an artifact holds, its settings, and what it was made from."""
    from . import printing
    from .stages.inspect import describe, describe_workspace

    if artifact.is_dir():
        printing.print_workspace(describe_workspace(artifact), format.value)
    else:
        printing.print_artifact(describe(artifact), format.value)


def _version(wanted: bool) -> None:
    if wanted:
        console.out.print(f"syntic {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line: one line and exit code 2 for what a user can act on."""
    console.escape_what_cannot_be_encoded()
    # What Pillow thinks of a photo's metadata is not what is asked; what it cannot read, rows say.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        try:
            app(standalone_mode=True)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except SynticError as error:
        console.error(str(error))
        raise SystemExit(2) from None
    except Interrupted as interrupted:
        kept = "run the same command again to go on"
        lost = "nothing is kept without a workspace, --output FILE keeps what is done"
        console.note(f"stopped; {kept if interrupted.kept else lost}")
        raise SystemExit(128 + interrupted.signal_number) from None
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except BrokenPipeError:
        # The reader of a pipe has gone; there is nobody left to write to.
        for stream in (sys.stdout, sys.stderr):
            console.silence(stream)
        raise SystemExit(1) from None
    except OSError as error:
        # Stages turn what goes wrong with artifacts into errors of their own.
        console.silence(sys.stdout)
        console.error(f"{error.filename or 'standard output'}: {error.strerror or error}")
        raise SystemExit(2) from None
