"""Workers that load the models write nothing of their libraries' own troubles into their log."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from pipeline.model_files.names import MINIATURE_FOLDER
from pipeline.quiet_libraries import without_weight_norm_warning

from .encoding.small_muq import CONFIG, make_muq, write_folder

LOADING = """
import sys
from pathlib import Path
from pipeline.encoding.codebook import Codebook
from pipeline.encoding.muq_weights import load_muq
from pipeline.separation.demucs_weights import load_separator
from pipeline.encoding.vae_checkpoint import load_oobleck
muq, models = map(Path, sys.argv[1:])
load_muq(muq, 1)
load_oobleck(models / "vae")
load_separator(models / "separator")
Codebook.load(models / "codebook")
"""


def test_loading_is_silent(tmp_path: Path) -> None:
    config = CONFIG | {"use_rvq_target": True}  # as the published MuQ has it: its quantisers use the old weight norm
    write_folder(tmp_path, make_muq(config).state_dict(), config)
    command = [sys.executable, "-c", LOADING, str(tmp_path), str(MINIATURE_FOLDER)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_only_that_warning_is_left_out(recwarn: pytest.WarningsRecorder) -> None:
    with without_weight_norm_warning():
        warnings.warn("`torch.nn.utils.weight_norm` is deprecated in favor of another", FutureWarning, stacklevel=1)
        warnings.warn("another", FutureWarning, stacklevel=1)
    assert [str(warning.message) for warning in recwarn] == ["another"]
