"""Another version of the project, walked in a process of its own: `python -P -m trunkline.cli.beside JOB RESULT HOME`.

It runs in that version's folder, with the library of whoever asks. HOME is the folder of this version: nothing is
imported from there.
"""

import json
import sys
from pathlib import Path

from trunkline.cli.loading import load_unchecked
from trunkline.errors import TrunklineError
from trunkline.flow.inputs import walked


def main(job: Path, result: Path, home: Path) -> None:
    """Walk a job's inputs and write what came of it, or why nothing did."""
    if Path.cwd() != home:
        sys.path[:] = [place for place in sys.path if Path(place).resolve() != home]
    try:
        found = walked(load_unchecked(), json.loads(job.read_text()))
    except TrunklineError as error:
        found = {"failure": str(error)}
    result.write_text(json.dumps(found))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
