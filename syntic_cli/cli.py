"""The command line: one short function a subcommand. It parses options and calls a stage."""

from __future__ import annotations

import errno
import signal
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from . import __version__, console
from .errors import Interrupted, SynticError
from .interrupts import tidy_end
from .options import (
    WORKSPACE,
    Careful,
    Compile,
    CorpusFile,
    CorpusOrScenes,
    DryRun,
    ExportFormat,
    Format,
    NoPreset,
    NoSeed,
    Output,
    Preset,
    Seed,
    Table,
    Workspace,
    common,
    method,
    model,
    takes,
)
from .presets import load_preset, resolve
from .settings import (
    CaptionSettings,
    ComposeSettings,
    CorpusSettings,
    DetectSettings,
    EncodeSettings,
    OptimizeSettings,
    ProjectSettings,
    Run,
    SelectSettings,
    SynthesizeSettings,
    TrainSettings,
    fields_of,
)

if TYPE_CHECKING:
    from .corpus import Corpus

Settings = TypeVar("Settings")
STAGES, USE = "Stages", "Use"
# What has no bearing on a stage that computes everything at once, or on no model at all.
ON_RAY = ("engine", "ray_address", "workers", "gpus_per_worker")
AT_ONCE = ("openvino", "shard_size", "retry_failed", "keep", *ON_RAY)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Turn a text corpus into an image captioner, with no real image in training.\n\n"
        "[bold]First captions:[/]  syntic caption photos/*.jpg\n\n"
        "[bold]The whole chain:[/] syntic run corpus.txt photos/*.jpg, or stage by stage: "
        "synthesize corpus.txt, encode, optimize, detect, project, train, caption, evaluate"
    ),
)
subcommand = partial(app.command, cls=Careful)


def _preset_name(given: str | None, workspace: Path, *, quiet: bool) -> str:
    """The option's or variable's preset, else the workspace's, else what suits the machine."""
    from .artifacts.workspace import remembered_preset
    from .models.devices import has_cuda

    name = given or remembered_preset(workspace)
    if name is None:
        name, why = ("paper", "a CUDA device") if has_cuda() else ("tiny", "no CUDA device")
        console.note(f"preset {name}: there is {why}; --preset takes another", quiet=quiet)
    return name


def _run(given: dict[str, Any], preset: str | None = None) -> Run:
    return Run(**_fields(Run, given), preset=preset)


def _fields(kind: type, given: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields_of(kind)}
    return {name: value for name, value in given.items() if name in names}


def _as_remembered(preset: str) -> str:
    return str(Path(preset).resolve()) if preset.endswith(".toml") else preset


def _chosen(
    kind: type[Settings],
    given: dict[str, Any],
    workspace: Path,
    preset: str | None,
    output: Path | None,
) -> tuple[Settings, Run]:
    """A stage's settings and how it runs, from the options given over the preset."""
    own = _fields(kind, given)
    rest = {name: value for name, value in given.items() if name not in own}
    name = _preset_name(preset, workspace, quiet=bool(given["quiet"]))
    settings = resolve(kind, load_preset(name), **own)
    in_workspace = output is None or output.parent.resolve() == workspace.resolve()
    return settings, _run(rest, _as_remembered(name) if in_workspace else None)


def _read_corpus(source: str, given: dict[str, Any], seed: int) -> Corpus:
    from .corpus import read_corpus

    settings = CorpusSettings(**_fields(CorpusSettings, given))
    return read_corpus(source, **vars(settings), seed=seed)


def _refuse_corpus_options(given: dict[str, Any], of: str) -> None:
    """Refuse to leave out without a word what says which texts of a corpus to take."""
    for field in fields_of(CorpusSettings):
        if given[field.name] != getattr(CorpusSettings, field.name):
            raise SynticError(f"{field.flag}: says what to take of {of}, which is not given")


@subcommand("run", rich_help_panel=STAGES, epilog="Example: syntic run corpus.txt photos/*.jpg")
@takes(corpus=True, hides=())
def run_chain(
    corpus: CorpusFile,
    photos: Annotated[
        list[str] | None, typer.Argument(help="Photos to caption at the end, or folders of them.")
    ] = None,
    workspace: Workspace = WORKSPACE,
    preset: Preset = None,
    references: Annotated[
        Path | None, model("--references", help="Score the captions with these.")
    ] = None,
    dry_run: DryRun = False,
    format: Annotated[Format, common("--format", "-f", help="How to print.")] = Format.table,
    seed: Seed = 0,
    **given: Any,
) -> None:
    """Run the whole chain on a corpus, going on where it stopped: from synthesize to evaluate."""
    from . import printing
    from .chain import Chain, run_chain
    from .metrics.references import load_references
    from .photos import find_photos

    found = find_photos(photos) if photos else []
    if references is not None:
        # Hours later is too late to be told of a wrong file.
        if not found:
            raise SynticError(f"--references {references}: are of photos; name the photos, too")
        load_references(references)
    name = _preset_name(preset, workspace, quiet=bool(given["quiet"]))
    texts = _read_corpus(corpus, given, seed)
    if dry_run:
        from .estimate import estimate_chain

        console.notes(texts.said(), quiet=bool(given["quiet"]))
        estimates = estimate_chain(texts, load_preset(name), _run(given), seed)
        printing.print_estimates(estimates, len(texts.captions))
        return
    chain = Chain(texts, workspace, load_preset(name), seed, found, references)
    captions, evaluation = run_chain(chain, _run(given, _as_remembered(name)))
    printing.print_captions(captions, format.value)
    if evaluation is not None:
        printing.print_evaluation(evaluation, "table", quiet=bool(given["quiet"]))


@subcommand(
    rich_help_panel=STAGES, epilog="Example: syntic compose corpus.txt --preset tiny --groups 5000"
)
@takes(ComposeSettings, corpus=True, hides=("keep", "openvino"))
def compose(
    corpus: CorpusFile,
    workspace: Workspace = WORKSPACE,
    preset: Preset = None,
    seed: Seed = 0,
    output: Output = None,
    **given: Any,
) -> None:
    """Gather texts of one scene and summarise them, for one image each (ICSD, AAAI 2024)."""
    from .stages.compose import compose as stage

    name = _preset_name(preset, workspace, quiet=bool(given["quiet"]))
    settings, run = _chosen(ComposeSettings, given, workspace, name, output)
    encoder = resolve(EncodeSettings, load_preset(name))
    texts = _read_corpus(corpus, given, seed)
    stage(texts, workspace, settings, encoder, run, seed=seed, output=output)


@subcommand(rich_help_panel=STAGES, epilog="Example: syntic synthesize corpus.txt --preset tiny")
@takes(SynthesizeSettings, corpus=True, hides=("keep", "openvino"))
def synthesize(
    corpus: CorpusOrScenes,
    workspace: Workspace = WORKSPACE,
    preset: Preset = None,
    compiled: Compile = None,
    dry_run: DryRun = False,
    seed: Seed = 0,
    output: Output = None,
    **given: Any,
) -> None:
    """Generate an image for every text of a corpus, or for every scene that `compose` made."""
    from .stages.synthesize import synthesize as stage

    settings, run = _chosen(SynthesizeSettings, given, workspace, preset, output)
    if corpus.endswith(".h5"):
        if CorpusSettings(**_fields(CorpusSettings, given)) != CorpusSettings():
            raise SynticError(
                f"{corpus}: is no corpus but scenes made of one; what to take of a corpus are "
                "options of `syntic compose`"
            )
        texts: Corpus | Path = Path(corpus)
    else:
        texts = _read_corpus(corpus, given, seed)
    if dry_run:
        from . import printing
        from .estimate import estimate_synthesis
        from .stages.synthesize import as_prompts

        prompts = as_prompts(texts)
        console.notes(prompts.said(), quiet=run.quiet)
        printing.print_estimates(
            [estimate_synthesis(prompts, settings, run, seed)], len(prompts.captions)
        )
        return
    stage(texts, workspace, settings, run, seed=seed, compiled=compiled, output=output)


@subcommand(rich_help_panel=STAGES, epilog="Example: syntic encode")
@takes(EncodeSettings, corpus=True)
def encode(
    corpus: Annotated[
        str | None,
        typer.Argument(help="Texts to encode alone, without images, as DeCap (ICLR 2023) does."),
    ] = None,
    workspace: Workspace = WORKSPACE,
    preset: Preset = None,
    synthetic: Annotated[Path | None, model("--synthetic", help="The images.")] = None,
    compiled: Compile = None,
    seed: Seed = 0,
    output: Output = None,
    **given: Any,
) -> None:
    """Encode images and texts with a dual encoder (CLIP), or texts alone."""
    from .stages.encode import encode as stage
    from .stages.encode import encode_texts

    if corpus is None:
        _refuse_corpus_options(given, "a CORPUS")
    elif synthetic is not None:
        raise SynticError(f"{corpus}: texts are encoded alone, so give no --synthetic")
    texts = None if corpus is None else _read_corpus(corpus, given, seed)
    settings, run = _chosen(EncodeSettings, given, workspace, preset, output)
    if texts is not None:
        console.notes(texts.said(), quiet=run.quiet)
        encode_texts(texts, workspace, settings, run, output=output)
        return
    stage(workspace, settings, run, compiled=compiled, synthetic=synthetic, output=output)


@subcommand(rich_help_panel=STAGES, epilog="Example: syntic select --keep-best 0.8")
@takes(SelectSettings, corpus=True, hides=AT_ONCE)
def select(
    workspace: Workspace = WORKSPACE,
    preset: Preset = None,
    features: Annotated[Path | None, model("--features", help="The features.")] = None,
    clip: Annotated[
        Path | None,
        model("--clip", help="Features by another dual encoder to choose by: encode -o FILE."),
    ] = None,
    only: Annotated[
        str | None,
        model("--only", help="Instead, keep the texts of this corpus, with the images they have."),
    ] = None,
    seed: Seed = 0,
    output: Output = None,
    **given: Any,
) -> None:
    """Pair each text anew with the image that says it best (SynC, 2025), or keep a part of them."""
    from .stages.select import keep_only
    from .stages.select import select as stage

    if only is None:
        _refuse_corpus_options(given, "--only")
    texts = None if only is None else _read_corpus(only, given, seed)
    settings, run = _chosen(SelectSettings, given, workspace, preset, output)
    if texts is not None:
        if clip is not None or any(_fields(SelectSettings, given).values()):
            raise SynticError("--only: keeps texts as they are; it goes with no option of SynC's")
        console.notes(texts.said(), quiet=run.quiet)
        keep_only(texts, workspace, run, features=features, output=output)
        return
    stage(workspace, settings, run, features=features, clip=clip, output=output)


@subcommand(rich_help_panel=STAGES, epilog="Example: syntic optimize --epochs 50 --force")
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


@subcommand(rich_help_panel=STAGES, epilog="Example: syntic detect --threshold 0.6")
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


@subcommand(rich_help_panel=STAGES, epilog="Example: syntic project --temperature 0.0125")
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


@subcommand(rich_help_panel=STAGES, epilog="Example: syntic train --no-objects -o plain.h5")
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


@subcommand(rich_help_panel=USE, epilog="Example: syntic caption photos/*.jpg --format jsonl")
@takes(CaptionSettings, hides=())
def caption(
    context: typer.Context,
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
    sidecar: Annotated[
        bool,
        model("--sidecar", help="Write PHOTO.txt beside each photo that has none.", metavar=""),
    ] = False,
    sidecar_folder: Annotated[
        Path | None,
        model("--sidecar-folder", help="Write them here instead, in folders like the photos'."),
    ] = None,
    format: Annotated[Format, common("--format", "-f", help="How to print.")] = Format.table,
    _seed: NoSeed = 0,
    output: Output = None,
    **given: Any,
) -> None:
    """Caption photos, with the workspace's captioner or the one that ships with syntic."""
    from . import printing
    from .photos import list_photos
    from .sidecars import Sidecars, common_folder
    from .stages.caption import caption_and_read, shipped_preset

    preset = preset or shipped_preset(workspace, captioner)
    preset = _preset_name(preset, workspace, quiet=bool(given["quiet"]))
    settings, run = _chosen(CaptionSettings, given, workspace, preset, output)
    listed = list_photos(photos, recursive=recursive, stdin=sys.stdin)
    console.notes(listed.notes, quiet=run.quiet)
    values = load_preset(preset)
    root, sidecars = common_folder(photos, listed.photos), None
    if sidecar or sidecar_folder:
        sidecars = Sidecars(root, sidecar_folder, run.force)
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
        sidecars=sidecars,
        output=output,
        keep=_is_named(context, "workspace"),
    )
    printing.print_captions(captions, format.value, beside=root)
    if captions and all(caption.error for caption in captions):
        raise SynticError(f"no photo could be captioned: {captions[0].error}")


def _is_named(context: typer.Context, parameter: str) -> bool:
    """Whether a parameter was given, by an option or a variable."""
    source = context.get_parameter_source(parameter)
    return source is not None and source.name != "DEFAULT"


@subcommand(rich_help_panel=USE, epilog="Example: syntic evaluate --references refs.json")
@takes(hides=("openvino", "shard_size", "retry_failed", *ON_RAY))
def evaluate(
    references: Annotated[
        Path, model("--references", help="Any format of texts that names a photo for each.")
    ],
    captions: Annotated[
        list[Path] | None,
        typer.Argument(
            readable=False,
            help="captions.h5, COCO results, or what caption printed; else the run's. Several are "
            "compared.",
        ),
    ] = None,
    workspace: Workspace = WORKSPACE,
    split: Annotated[str | None, model("--split", help="Split of the references.")] = None,
    encoding: Annotated[str, model("--encoding", help="Encoding of text files.")] = "utf-8",
    photos: Annotated[
        list[str] | None,
        model(
            "--photos",
            help="The photos of a .txt, or where captions name them without their folder: a "
            "folder or a file each time.",
        ),
    ] = None,
    metrics: Annotated[
        str,
        model(
            "--metrics",
            help="Comma-separated: BLEU-1 to BLEU-4 (bleu), METEOR, ROUGE-L, CIDEr, SPICE (all of "
            "these: all); CLIPScore, RefCLIPScore (clip), R@1, R@5, R@10 (recall).",
            show_default="all but SPICE",
        ),
    ] = "BLEU-1,BLEU-2,BLEU-3,BLEU-4,METEOR,ROUGE-L,CIDEr",
    fetch_spice: Annotated[
        bool,
        model(
            "--fetch-spice",
            help="Download Stanford CoreNLP (GPL), which SPICE needs, to the cache.",
            metavar="",
        ),
    ] = False,
    clip: Annotated[
        str | None,
        model("--clip", help="open_clip name, hub id or folder, if not the run's dual encoder."),
    ] = None,
    pretrained: Annotated[
        str | None, model("--pretrained", help="Pretrained tag of an open_clip name.")
    ] = None,
    bootstrap: Annotated[
        int,
        method(
            "--bootstrap", help="Samples of the paired bootstrap of several.", min=1, max=1_000_000
        ),
    ] = 1000,
    format: Annotated[Table, common("--format", "-f", help="How to print.")] = Table.table,
    _preset: NoPreset = None,
    seed: Seed = 0,
    output: Output = None,
    **given: Any,
) -> None:
    """Score captions with BLEU, METEOR, ROUGE-L, CIDEr and others; compare captioners."""
    from . import printing
    from .metrics import corenlp
    from .photos import find_photos
    from .stages.evaluate import evaluate as stage

    names = [name.strip() for name in metrics.split(",") if name.strip()]
    run = _run(given)
    if fetch_spice:
        corenlp.fetch(quiet=run.quiet)
    if pretrained is not None and clip is None:
        raise SynticError("--pretrained: is of an open_clip name; give --clip, too")
    found = stage(
        references,
        workspace,
        names,
        run,
        captions=captions or None,
        photos=find_photos(photos) if photos else None,
        split=split,
        encoding=encoding,
        clip=EncodeSettings(clip, pretrained) if clip else None,
        bootstrap=bootstrap,
        seed=seed,
        output=output,
    )
    printing.print_evaluation(found, format.value, quiet=run.quiet)


@subcommand(rich_help_panel=USE, epilog="Example: syntic inspect syntic-run/captioner.h5")
def inspect(
    artifact: Annotated[
        Path, typer.Argument(help="An artifact, or a workspace folder.", readable=False)
    ],
    format: Annotated[Table, common("--format", "-f", help="How to print.")] = Table.table,
) -> None:
    """Show what an artifact holds, its settings, and what it was made from."""
    from . import printing
    from .stages.inspect import describe, describe_workspace

    if artifact.is_dir():
        printing.print_workspace(describe_workspace(artifact), format.value)
    else:
        printing.print_artifact(describe(artifact), format.value)


@subcommand(rich_help_panel=USE, epilog="Example: syntic report run-a run-b -o both.html")
def report(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            readable=False,
            help="Workspaces, or files of captions, to set side by side.",
            show_default="-w",
        ),
    ] = None,
    workspace: Workspace = WORKSPACE,
    items: Annotated[
        int, common("--items", help="Photos, and synthetic images, to show.", min=1, max=100_000)
    ] = 150,
    output: Annotated[Path, common("--output", "-o", help="The page.")] = Path("report.html"),
    force: Annotated[
        bool, common("--force", help="Write over a file that is no report.", metavar="")
    ] = False,
    quiet: Annotated[
        bool, common("--quiet", "-q", help="Print warnings and errors only.", metavar="")
    ] = False,
) -> None:
    """Show a run as an HTML page: lineage, corpus, images, curves, photos and scores."""
    from .stages.report import report as stage

    stage(sources or [workspace], items=items, output=output, force=force, quiet=quiet)


@subcommand(
    rich_help_panel=USE, epilog="Example: syntic export syntic-run/synthetic.h5 --to webdataset out"
)
def export(
    artifact: Annotated[
        Path, typer.Argument(help="synthetic.h5, captions.h5, or features.", readable=False)
    ],
    target: Annotated[
        Path, typer.Argument(help="A new folder; for coco a JSON file.", readable=False)
    ],
    to: Annotated[ExportFormat, common("--to", help="The format.")],
    shard_size: Annotated[
        int,
        common(
            "--shard-size", help="Rows in a tar, parquet file or subfolder.", min=1, max=1_000_000
        ),
    ] = 10_000,
    force: Annotated[
        bool, common("--force", help="Write over files of coco and sidecar.", metavar="")
    ] = False,
    quiet: Annotated[
        bool, common("--quiet", "-q", help="Print warnings and errors only.", metavar="")
    ] = False,
) -> None:
    """Hand on pairs, features or captions in a format of other tools."""
    from .stages.export import export as stage

    stage(artifact, to.value, target, shard_size=shard_size, force=force, quiet=quiet)


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


# What the system answers where a stream cannot take what is written to it.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


def _refuse_deleted_folder() -> None:
    """Refuse to work where no relative name means anything; libraries do not even load there."""
    try:
        Path.cwd()
    except OSError as error:
        raise SynticError(
            f"the working folder cannot be found ({error.strerror}): change to one that is there"
        ) from error


def main() -> None:
    """Run the command line: one line and exit code 2 for what a user can act on."""
    console.escape_what_cannot_be_encoded()
    console.widen()
    # What Pillow thinks of a photo's metadata is not what is asked; what it cannot read, rows say.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        _refuse_deleted_folder()
        with tidy_end():
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
    except (ImportError, MemoryError) as error:
        # Libraries map gigabytes, which a limit on memory may forbid.
        reason = str(error) or "out of memory"
        console.error(f"a library cannot be used ({reason}): free memory, or install it again")
        raise SystemExit(2) from None
    except OSError as error:
        # Stages turn what goes wrong with artifacts into errors of their own.
        console.silence(sys.stdout)
        # Only a stream that is written to fails with a number and no name.
        where = error.filename or ("standard output" if error.errno in _FULL else "")
        console.error(": ".join(filter(None, [where, error.strerror or str(error)])))
        raise SystemExit(2) from None
