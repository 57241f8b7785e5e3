"""Record size and sha256 of the demo weights in weights/manifest.toml, after a training:
`python -m training.manifest`.
"""

from __future__ import annotations

import hashlib
import re

from mead.weights.sets import FOLDER


def main() -> None:
    manifest = FOLDER / "manifest.toml"
    text = manifest.read_text("utf-8")
    for path in sorted((FOLDER / "demo").glob("*.safetensors")):
        content = path.read_bytes()
        entry = re.compile(rf'(path = "demo/{path.name}"\n)size = .*\nsha256 = .*\n')
        facts = f'\\g<1>size = {len(content)}\nsha256 = "{hashlib.sha256(content).hexdigest()}"\n'
        text, found = entry.subn(facts, text)
        if not found:
            raise SystemExit(f"{manifest} has no entry for demo/{path.name}")
        print(f"{path.name}: {len(content) / 1e6:.1f} MB")
    partial = manifest.with_suffix(".partial")
    partial.write_text(text, "utf-8")
    partial.replace(manifest)


if __name__ == "__main__":
    main()
