"""Keep the chosen family's files, and what a repository of its own needs only where it is one."""

import shutil
from pathlib import Path

FAMILY = "{{ cookiecutter.family }}"
IN_MONOREPO = "{{ cookiecutter.in_monorepo }}" == "yes"
STANDALONE = ("LICENSE", "CHANGELOG.md", ".github", ".gitignore")

root = Path.cwd()
chosen = root / "families" / FAMILY
for source in sorted(chosen.iterdir()):
    if source.name == "README.md":
        # The family's part of the README: how it is configured, and its limits.
        with (root / "README.md").open("a") as readme:
            readme.write(source.read_text())
    else:
        shutil.move(str(source), root / source.name)
shutil.rmtree(root / "families")
for name in STANDALONE if IN_MONOREPO else ():
    place = root / name
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink()
