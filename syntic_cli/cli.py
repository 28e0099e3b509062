"""The command line: one short function a subcommand. It parses options and calls a stage."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from . import __version__, console
from .errors import Interrupted, SynticError
from .options import (
    WORKSPACE,
    BatchSize,
    Compile,
    Device,
    Dtype,
    Force,
    Format,
    NoBatchSize,
    NoDevice,
    NoDtype,
    NoPreset,
    NoSeed,
    Output,
    Preset,
    Quiet,
    Retry,
    Seed,
    ShardSize,
    Table,
    Workspace,
    common,
    method,
    model,
)
from .settings import (
    DEFAULT_PRESET,
    CaptionSettings,
    DetectSettings,
    EncodeSettings,
    OptimizeSettings,
    ProjectSettings,
    Run,
    SynthesizeSettings,
    TrainSettings,
    load_preset,
    resolve,
)

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


def _preset(given: str | None, workspace: Path, *, remember: bool = True) -> dict[str, Any]:
    """The preset's values: the option's or variable's, else the workspace's, else the default."""
    from .workspace import remember_preset, remembered_preset

    name = given or remembered_preset(workspace) or DEFAULT_PRESET
    values = load_preset(name)
    if remember:
        remember_preset(workspace, str(Path(name).resolve()) if name.endswith(".toml") else name)
    return values


@app.command(rich_help_panel="Stages", epilog="Example: syntic synthesize corpus.txt --preset tiny")
def synthesize(
    corpus: Annotated[
        str, typer.Argument(help="Texts: .txt, .jsonl, .csv, COCO or Karpathy JSON, - for stdin.")
    ],
    workspace: Workspace = WORKSPACE,
    preset: Preset = None,
    model: Annotated[str | None, model("--model", help="Hub id or diffusers folder.")] = None,
    revision: Annotated[str | None, model("--revision", help="Revision of the hub id.")] = None,
    text_field: Annotated[
        str | None,
        model("--text-field", help="Field of the texts, if not caption, text, sentence or raw."),
    ] = None,
    split: Annotated[str | None, model("--split", help="Split of the corpus to take.")] = None,
    encoding: Annotated[str, model("--encoding", help="Encoding of the corpus.")] = "utf-8",
    max_words: Annotated[
        int | None, model("--max-words", help="Leave out longer texts.", min=1)
    ] = None,
    sample: Annotated[
        float | None, model("--sample", help="Share of the texts to draw, such as 0.1.")
    ] = None,
    steps: Annotated[int | None, method("--steps", help="Denoising steps.")] = None,
    size: Annotated[int | None, method("--size", help="Pixels a side.")] = None,
    guidance: Annotated[float | None, method("--guidance", help="Guidance scale.")] = None,
    safety_checker: Annotated[
        bool | None,
        method(
            "--safety-checker/--no-safety-checker", help="Blank and mark unsafe images.", metavar=""
        ),
    ] = None,
    compiled: Compile = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    seed: Seed = 0,
    batch_size: BatchSize = None,
    shard_size: ShardSize = 256,
    output: Output = None,
    force: Force = False,
    retry_failed: Retry = False,
    quiet: Quiet = False,
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
    console.note(texts.summary(), quiet=quiet)
    options = {
        "model": model,
        "revision": revision or (None if model is None else ""),
        "steps": steps,
        "size": size,
        "guidance": guidance,
        "safety_checker": safety_checker,
    }
    settings = resolve(SynthesizeSettings, _preset(preset, workspace), **options)
    run = Run(device, dtype, batch_size, shard_size, force, retry_failed, quiet)
    stage(texts, workspace, settings, run, seed=seed, compiled=compiled, output=output)


@app.command(rich_help_panel="Stages", epilog="Example: syntic encode")
def encode(
    workspace: Workspace = WORKSPACE,
    preset: Preset = None,
    synthetic: Annotated[Path | None, model("--synthetic", help="The images.")] = None,
    model: Annotated[str | None, model("--model", help="open_clip name, hub id or folder.")] = None,
    pretrained: Annotated[
        str | None, model("--pretrained", help="Pretrained tag of an open_clip name.")
    ] = None,
    compiled: Compile = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    _seed: NoSeed = 0,
    batch_size: BatchSize = None,
    shard_size: ShardSize = 256,
    output: Output = None,
    force: Force = False,
    retry_failed: Retry = False,
    quiet: Quiet = False,
) -> None:
    """Encode images and texts with a dual encoder (CLIP)."""
    from .stages.encode import encode as stage

    settings = resolve(
        EncodeSettings,
        _preset(preset, workspace),
        model=model,
        pretrained=pretrained,
        revision=None if model is None else "",
    )
    run = Run(device, dtype, batch_size, shard_size, force, retry_failed, quiet)
    stage(workspace, settings, run, compiled=compiled, synthetic=synthetic, output=output)


@app.command(rich_help_panel="Stages", epilog="Example: syntic optimize --epochs 50 --force")
def optimize(
    workspace: Workspace = WORKSPACE,
    preset: Preset = None,
    features: Annotated[Path | None, model("--features", help="The features.")] = None,
    temperature: Annotated[float | None, method("--temperature", help="τ of equation 2.")] = None,
    lr: Annotated[float | None, method("--lr", help="Adam's learning rate.")] = None,
    epochs: Annotated[int | None, method("--epochs", help="Passes over the items.")] = None,
    batch_size: Annotated[
        int | None, method("--batch-size", help="The contrastive mini-batch, part of the method.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    seed: Seed = 0,
    output: Output = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Refine the image features against their texts (equations 1 and 2)."""
    from .stages.optimize import optimize as stage

    settings = resolve(
        OptimizeSettings,
        _preset(preset, workspace),
        temperature=temperature,
        lr=lr,
        epochs=epochs,
        batch_size=batch_size,
    )
    run = Run(device, dtype, force=force, quiet=quiet)
    stage(workspace, settings, run, seed=seed, features=features, output=output)


@app.command(rich_help_panel="Stages", epilog="Example: syntic detect --threshold 0.6")
def detect(
    workspace: Workspace = WORKSPACE,
    preset: Preset = None,
    synthetic: Annotated[Path | None, model("--synthetic", help="The images.")] = None,
    model: Annotated[str | None, model("--model", help="Hub id or transformers folder.")] = None,
    revision: Annotated[str | None, model("--revision", help="Revision of the hub id.")] = None,
    threshold: Annotated[
        float | None, method("--threshold", help="Least score of an object, 0 to 1.")
    ] = None,
    max_objects: Annotated[
        int | None, method("--max-objects", help="Most objects of an image.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    _seed: NoSeed = 0,
    batch_size: BatchSize = None,
    shard_size: ShardSize = 256,
    output: Output = None,
    force: Force = False,
    retry_failed: Retry = False,
    quiet: Quiet = False,
) -> None:
    """Detect the objects in every synthetic image (equation 4)."""
    from .stages.detect import detect as stage

    options = {
        "model": model,
        "revision": revision or (None if model is None else ""),
        "threshold": threshold,
        "max_objects": max_objects,
    }
    settings = resolve(DetectSettings, _preset(preset, workspace), **options)
    run = Run(device, dtype, batch_size, shard_size, force, retry_failed, quiet)
    stage(workspace, settings, run, synthetic=synthetic, output=output)


@app.command(rich_help_panel="Stages", epilog="Example: syntic project --temperature 0.0125")
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
    temperature: Annotated[float | None, method("--temperature", help="τ of equation 3.")] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    _seed: NoSeed = 0,
    batch_size: BatchSize = None,
    output: Output = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Project the image features on the support set of texts (equation 3)."""
    from .stages.project import project as stage

    settings = resolve(ProjectSettings, _preset(preset, workspace), temperature=temperature)
    run = Run(device, dtype, batch_size, force=force, quiet=quiet)
    stage(workspace, settings, run, features=features, support=support, output=output)


@app.command(rich_help_panel="Stages", epilog="Example: syntic train --no-objects -o plain.h5")
def train(
    workspace: Workspace = WORKSPACE,
    preset: Preset = None,
    projected: Annotated[Path | None, model("--projected", help="The projected features.")] = None,
    objects: Annotated[Path | None, model("--objects", help="The detected objects.")] = None,
    support: Annotated[
        Path | None, model("--support", help="The support set's file, where it has moved.")
    ] = None,
    use_objects: Annotated[
        bool | None,
        method("--with-objects/--no-objects", help="Attend to object names.", metavar=""),
    ] = None,
    use_projection: Annotated[
        bool | None,
        method(
            "--with-projection/--no-projection", help="Condition on projected features.", metavar=""
        ),
    ] = None,
    tokenizer: Annotated[
        str | None, method("--tokenizer", help="clip, or bpe:SIZE trained on the corpus.")
    ] = None,
    layers: Annotated[int | None, method("--layers", help="Transformer layers.")] = None,
    heads: Annotated[int | None, method("--heads", help="Attention heads.")] = None,
    width: Annotated[int | None, method("--width", help="Width of the decoder.")] = None,
    dropout: Annotated[float | None, method("--dropout", help="Dropout.")] = None,
    epochs: Annotated[int | None, method("--epochs", help="Passes over the pairs.")] = None,
    lr: Annotated[float | None, method("--lr", help="Peak learning rate.")] = None,
    batch_size: Annotated[
        int | None, method("--batch-size", help="Captions a step, part of the method.")
    ] = None,
    label_smoothing: Annotated[
        float | None, method("--label-smoothing", help="Share spread over all tokens.")
    ] = None,
    noise: Annotated[
        float | None, method("--noise", help="Deviation of noise on the prefix, as CapDec's.")
    ] = None,
    validation: Annotated[
        float | None, method("--validation", help="Share of the pairs held out.")
    ] = None,
    compiled: Compile = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    seed: Seed = 0,
    output: Output = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Train the caption decoder (equations 5 and 6)."""
    from .stages.train import train as stage

    settings = resolve(
        TrainSettings,
        _preset(preset, workspace),
        objects=use_objects,
        projection=use_projection,
        tokenizer=tokenizer,
        layers=layers,
        heads=heads,
        width=width,
        dropout=dropout,
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        label_smoothing=label_smoothing,
        noise=noise,
        validation=validation,
    )
    stage(
        workspace,
        settings,
        Run(device, dtype, force=force, quiet=quiet),
        seed=seed,
        compiled=compiled,
        projected=projected,
        objects=objects,
        support=support,
        output=output,
    )


@app.command(rich_help_panel="Use", epilog="Example: syntic caption photos/*.jpg --format jsonl")
def caption(
    photos: Annotated[
        list[str], typer.Argument(help="Photos and folders; - for a list on standard input.")
    ],
    workspace: Workspace = WORKSPACE,
    preset: Preset = None,
    captioner: Annotated[
        Path | None, model("--captioner", help="The captioner; else the workspace's or shipped.")
    ] = None,
    support: Annotated[
        Path | None, model("--support", help="Features file whose texts replace the support set.")
    ] = None,
    clip: Annotated[
        str | None, model("--clip", help="Where the captioner's CLIP model is now.")
    ] = None,
    detector: Annotated[
        str | None, model("--detector", help="Where the captioner's detector is now.")
    ] = None,
    recursive: Annotated[
        bool, model("--recursive", "-r", help="Look into subfolders, too.", metavar="")
    ] = False,
    beam: Annotated[int | None, method("--beam", help="Beam; 1 is greedy search.")] = None,
    rerank: Annotated[
        float | None,
        method("--rerank", help="Weight of the caption's CLIP cosine in choosing from the beam."),
    ] = None,
    mirror: Annotated[
        bool | None,
        method("--mirror/--no-mirror", help="See each photo twice, the second time mirrored."),
    ] = None,
    max_length: Annotated[int | None, method("--max-length", help="Most tokens.")] = None,
    temperature: Annotated[
        float | None, method("--temperature", help="τ of equation 3, if not the captioner's.")
    ] = None,
    format: Annotated[Format, common("--format", "-f", help="How to print.")] = Format.table,
    device: Device = "auto",
    dtype: Dtype = "auto",
    _seed: NoSeed = 0,
    batch_size: BatchSize = None,
    shard_size: ShardSize = 256,
    output: Output = None,
    force: Force = False,
    retry_failed: Retry = False,
    quiet: Quiet = False,
) -> None:
    """Caption photos, with the workspace's captioner or the one that ships with syntic."""
    from . import printing
    from .photos import find_photos
    from .stages.caption import caption_and_read

    found = find_photos(photos, recursive=recursive, stdin=sys.stdin)
    settings = resolve(
        CaptionSettings,
        _preset(preset or _shipped_preset(workspace, captioner), workspace, remember=False),
        beam=beam,
        rerank=rerank,
        mirror=mirror,
        max_length=max_length,
        temperature=temperature,
    )
    captions = caption_and_read(
        found,
        workspace,
        settings,
        Run(device, dtype, batch_size, shard_size, force, retry_failed, quiet),
        captioner=captioner,
        support=support,
        clip=clip,
        detector=detector,
        output=output,
    )
    printing.print_captions(captions, format.value)


def _shipped_preset(workspace: Path, captioner: Path | None) -> str | None:
    """The shipped captioner decodes as its own preset says."""
    from .workspace import FILES

    shipped = captioner is None and not (workspace / FILES["train"]).exists()
    return "tiny" if shipped else None


@app.command(rich_help_panel="Use", epilog="Example: syntic evaluate --references refs.json")
def evaluate(
    references: Annotated[
        Path, model("--references", help="COCO captions or Karpathy JSON, or CSV.")
    ],
    captions: Annotated[
        Path | None, typer.Argument(help="captions.h5 or a COCO results JSON, if not the run's.")
    ] = None,
    workspace: Workspace = WORKSPACE,
    split: Annotated[str | None, model("--split", help="Split of the references.")] = None,
    metrics: Annotated[
        str,
        model(
            "--metrics",
            help="Comma-separated, or all; SPICE needs its CoreNLP jars.",
            show_default="all but SPICE",
        ),
    ] = "BLEU-1,BLEU-2,BLEU-3,BLEU-4,METEOR,ROUGE-L,CIDEr",
    format: Annotated[Table, common("--format", "-f", help="How to print.")] = Table.table,
    _preset_name: NoPreset = None,
    _device: NoDevice = "auto",
    _dtype: NoDtype = "auto",
    _seed: NoSeed = 0,
    _batch_size: NoBatchSize = None,
    output: Output = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Score captions with BLEU, METEOR, ROUGE-L and CIDEr."""
    from . import printing
    from .stages.evaluate import evaluate as stage

    names = [name.strip() for name in metrics.split(",") if name.strip()]
    run = Run(force=force, quiet=quiet)
    found = stage(references, workspace, names, run, captions=captions, split=split, output=output)
    printing.print_evaluation(found, format.value)


@app.command(rich_help_panel="Use", epilog="Example: syntic inspect syntic-run/captioner.h5")
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
    try:
        app(standalone_mode=True)
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
