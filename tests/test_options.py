"""Every setting has an option, a range that holds everywhere, and a place in the README."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from syntic_cli.cli import app
from syntic_cli.errors import SynticError
from syntic_cli.presets import load_preset, makes_images, preset_names, resolve
from syntic_cli.schema import STAGES
from syntic_cli.settings import Run, TrainSettings, fields_of

from .conftest import RunCli

README = Path(__file__).resolve().parents[1] / "README.md"
COMMANDS: Any = typer.main.get_command(app)
SETTINGS = [
    pytest.param(name, field, id=f"{name} {field.name}")
    for name, stage in STAGES.items()
    if stage.settings
    for field in fields_of(stage.settings)
]
# What each stage must be told, for its class to be made at all.
NEEDED = {"synthesize": "m", "encode": "m", "detect": "m"}


def options(command: str) -> dict[str, Any]:
    """The options of a subcommand by their names."""
    found = COMMANDS.commands[command].params
    return {name: o for o in found for name in [*o.opts, *o.secondary_opts]}


def settings_of(name: str, **values: Any) -> Any:
    kind: Any = STAGES[name].settings
    return kind(**{**({"model": NEEDED[name]} if name in NEEDED else {}), **values})


def out_of_range(field: Any) -> list[Any]:
    """Values of the field's type that its range does not have."""
    tried = [0, -1, 1, 17, 101, 10**12] if field.type is int else [-0.5, 1.0, 0.0, float("nan")]
    return [value for value in tried if field.type in (int, float) and field.check(value)]


@pytest.mark.parametrize(("name", "field"), SETTINGS)
def test_every_setting_has_an_option_with_help(name: str, field: Any) -> None:
    option = options(name)[field.flag]
    assert option.help
    assert not option.hidden
    assert option.default is None  # the preset's value is not overruled


@pytest.mark.parametrize("name", STAGES)
def test_every_way_to_run_has_an_option(name: str) -> None:
    taken = {field.name for field in fields_of(STAGES[name].settings or Run)}
    for field in fields_of(Run):
        if field.name != "preset" and field.name not in taken:
            assert field.flag in options(name)


@pytest.mark.parametrize(("name", "field"), SETTINGS)
def test_a_range_holds_for_python_presets_and_options(
    name: str, field: Any, run_cli: RunCli, tmp_path: Path
) -> None:
    for value in out_of_range(field):
        with pytest.raises(SynticError, match=re.escape(f"{field.flag} {value}: must be")):
            settings_of(name, **{field.name: value})
        preset = tmp_path / "mine.toml"
        preset.write_text(f"[{name}]\n{field.name} = {value}\n")
        with pytest.raises(SynticError, match=rf"\[{name}\] {field.name} = .*: must be"):
            load_preset(str(preset))
    for wrong in ("text", None) if field.type is not str else (3, None):
        if wrong is not None or not field.optional:
            with pytest.raises(SynticError):
                settings_of(name, **{field.name: wrong})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "--noise", "1"], "--noise 1.0: must be at least 0 and below 1"),
        (["train", "--warmup", "-1"], "--warmup -1: must be at least 0 and at most"),
        (["train", "--heads", "3"], "the width must be a multiple of the heads"),
        (["detect", "--threshold", "nan"], "--threshold nan: must be at least 0 and below 1"),
        (["caption", "a.jpg", "b.jpg", "--beam", "0"], "--beam 0: must be at least 1"),
        (["encode", "--shard-size", "0"], "--shard-size 0: must be at least 1"),
        (["synthesize", "-", "--quality", "101"], "--quality 101: must be from 1 to 100"),
    ],
    ids=" ".join,
)
def test_the_command_line_checks_them(
    arguments: list[str],
    says: str,
    run_cli: RunCli,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    import io
    import sys

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a dog\n")))
    result = run_cli(*arguments, "-w", tmp_path, "--preset", "tiny")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert says in result.stderr


def test_a_model_that_is_named_has_no_revision_of_another() -> None:
    preset = load_preset("paper")
    for name in ("synthesize", "encode", "detect"):
        kind: Any = STAGES[name].settings
        assert resolve(kind, preset).revision
        assert resolve(kind, preset, model="mine").revision is None
        assert resolve(kind, preset, model="mine", revision="v2").revision == "v2"
        assert resolve(kind, preset, revision="v2").model == preset[name]["model"]
    compose: Any = STAGES["compose"].settings
    assert resolve(compose, preset).writer_revision
    assert resolve(compose, preset, writer="model:mine").writer_revision is None


@pytest.mark.parametrize("name", preset_names())
def test_shipped_presets_give_every_stage_its_settings(name: str) -> None:
    preset = load_preset(name)
    texts_alone = {"synthesize", "detect"} if name == "laptop" else set()
    for stage in STAGES.values():
        if stage.settings is not None and stage.name not in texts_alone:
            assert resolve(stage.settings, preset)
    assert makes_images(preset) == (name != "laptop")


def test_a_python_user_is_told_in_a_line_too() -> None:
    with pytest.raises(SynticError, match="--width 100 --heads 3"):
        TrainSettings(width=100, heads=3)
    with pytest.raises(SynticError, match="--batch-size 0: must be at least 1"):
        Run(batch_size=0)


@pytest.mark.parametrize("name", COMMANDS.commands)
def test_the_readmes_table_has_every_command_and_option(name: str) -> None:
    """The table of subcommands and the list of common options under it, against the program."""
    text = README.read_text()
    found = re.findall(r"(?m)^(\| `([a-z]+)[^\n]*\|)$", text)
    (row,) = [row for row, command in found if command == name and "--" in row]
    common = re.search(r"(?ms)^All but .*?\n\n", text)
    assert common
    said = set(re.findall(r"--[a-z0-9-]+", row + common[0]))
    shown = {n for n, option in options(name).items() if n.startswith("--") and not option.hidden}
    # Of a switch one side is enough.
    missing = {
        n
        for n in shown - said - {"--help"}
        if not {*options(name)[n].opts, *options(name)[n].secondary_opts} & said
    }
    assert not missing
    unknown = set(re.findall(r"--[a-z0-9-]+", row)) - set(options(name))
    assert not unknown
