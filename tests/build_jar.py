"""Build `syntic-metrics.jar` from its sources: python -m tests.build_jar [TARGET]."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from syntic_cli import metrics
from syntic_cli.metrics.java import jar

# What the oldest Java that syntic allows can run.
RELEASE = "17"
TARGET = Path(metrics.__file__).with_name("syntic-metrics.jar")
SOURCES = TARGET.with_name("java_sources")
SERVICE = "META-INF/services/javax.script.ScriptEngineFactory"


def build(target: Path) -> None:
    """Compile the sources and write the jar: the same bytes for the same compiler, at any time."""
    with tempfile.TemporaryDirectory() as folder:
        sources = sorted(map(str, SOURCES.rglob("*.java")))
        classes = ("-cp", str(jar("meteor", "meteor-1.5.jar")), "-d", folder)
        command = ["javac", "-Xlint:all", "-Werror", "--release", RELEASE, *classes, *sources]
        subprocess.run(command, check=True)
        entries = {"META-INF/MANIFEST.MF": b"Manifest-Version: 1.0\r\n\r\n"}
        entries[SERVICE] = (SOURCES / SERVICE).read_bytes()
        for path in sorted(Path(folder).rglob("*.class")):
            entries[path.relative_to(folder).as_posix()] = path.read_bytes()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # of 1980, not compressed


if __name__ == "__main__":
    build(Path(sys.argv[1]) if sys.argv[1:] else TARGET)
