import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trainings
from trainings import Training

Torchrun = Callable[[int, Sequence[Training]], subprocess.CompletedProcess[str]]


@pytest.fixture
def torchrun(tmp_path: Path) -> Torchrun:
    """Train on several processes of this machine."""

    def start(
        processes: int, asked: Sequence[Training]
    ) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "trainings.json"
        path.write_text(json.dumps(asked))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(processes)]
        script = trainings.__file__
        return subprocess.run(
            [*command, script, str(path)],
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    return start
