"""A recipe: all that decides what an artifact holds, and so its fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Input:
    """An artifact or file that another artifact was made from.

    fingerprint is the artifact's `state`, or the sha256 of the file.
    """

    stage: str
    fingerprint: str
    file: str

    @staticmethod
    def from_json(content: Any) -> Input:
        """What `vars` of an input became in JSON.

        Raises:
            ValueError: where it is something else.
        """
        names = ("stage", "fingerprint", "file")
        if not isinstance(content, dict) or set(content) != set(names):
            raise ValueError("an input without stage, fingerprint and file")
        if not all(isinstance(value, str) for value in content.values()):
            raise ValueError("an input that is not told by texts")
        return Input(**content)


@dataclass(frozen=True)
class Recipe:
    """All that decides what a stage's output holds.

    settings are JSON values; models names the frozen models that the artifact's lineage has used;
    origin is the fingerprint of the corpus or images that its rows go back to.
    """

    stage: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, Input] = field(default_factory=dict)
    models: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) over stage, settings and the inputs' fingerprints."""
        content = {
            "stage": self.stage,
            "settings": dict(self.settings),
            "inputs": {role: given.fingerprint for role, given in self.inputs.items()},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain values."""
        return {
            "stage": self.stage,
            "settings": dict(self.settings),
            "inputs": {role: vars(given) for role, given in self.inputs.items()},
            "models": dict(self.models),
            "origin": self.origin,
        }

    @staticmethod
    def from_json(content: Any) -> Recipe:
        """What `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: where it is something else.
        """
        settings, models, given = (content[name] for name in ("settings", "models", "inputs"))
        if not all(isinstance(values, dict) for values in (settings, models, given)):
            raise ValueError("settings, models or inputs that are no objects")
        inputs = {role: Input.from_json(one) for role, one in given.items()}
        return Recipe(str(content["stage"]), settings, inputs, models, str(content["origin"]))

    def differences(self, other: Recipe) -> list[str]:
        """What changed from this recipe to the other one, each as `name: old → new`."""
        changes = []
        for name in dict.fromkeys([*self.settings, *other.settings]):
            old, new = self.settings.get(name), other.settings.get(name)
            if old != new:
                changes.append(f"{name}: {_short(old)} → {_short(new)}")
        for role in dict.fromkeys([*self.inputs, *other.inputs]):
            before, after = self.inputs.get(role), other.inputs.get(role)
            if (before and before.fingerprint) != (after and after.fingerprint):
                names = [
                    f"{g.file} ({g.fingerprint[:8]})" if g else "none" for g in (before, after)
                ]
                changes.append(f"{role}: {names[0]} → {names[1]}")
        return changes


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
