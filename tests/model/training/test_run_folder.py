"""All ranks must see one run folder; threads stand in for ranks."""

import socket
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model.training.ranks import Ranks
from model.training.run_folder import check_run_folder
from model.training.training_run import TrainingRun
from model.weights.checkpoint import CheckpointError

from ..tiny_dataset import tiny_config


def check(folders: Sequence[Path], *, is_shared: bool = True) -> list[str]:
    """Return what each rank raises, "" for nothing."""
    barrier, told, texts = threading.Barrier(len(folders)), [0], [""] * len(folders)

    def play(rank: int) -> str:
        def tell(number: int) -> int:
            if rank == 0:
                told[0] = int(number)
            barrier.wait(20)
            answer = told[0]
            barrier.wait(20)
            return answer

        def collect(text: str) -> list[str]:
            texts[rank] = text
            barrier.wait(20)
            return list(texts)

        ranks: Any = SimpleNamespace(rank=rank, is_main=rank == 0, tell=tell, collect=collect)
        try:
            check_run_folder(folders[rank], ranks, is_shared=is_shared)
        except CheckpointError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(folders)) as executor:
        return list(executor.map(play, range(len(folders))))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.training.run_folder.VISIBLE_WITHIN_S", 0.5)


def test_one_folder_for_all_is_made_and_left_clean(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    assert check([folder] * 3) == [""] * 3
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("is_made", [True, False])
def test_the_rank_and_node_without_it_is_named_by_all(tmp_path: Path, is_made: bool) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    if is_made:
        other.mkdir()
    said = check([one, one, other])
    assert len({message.partition(": ")[2] for message in said}) == 1, "all ranks say the same"
    assert f"rank 2 on {socket.gethostname()} does not see there what rank 0 wrote" in said[0]
    assert "checkpoint.shared: false" in said[0]
    assert "rank 1" not in said[0]
    assert "\n" not in said[0]


def test_a_token_of_another_run_is_no_proof(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    other.mkdir()
    (other / ".run_token").write_text("17\n")
    assert "rank 1 on " in check([one, other])[0]
    assert "sees another run there" in check([one, other])[0]


def test_a_file_that_appears_late_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.training.run_folder.VISIBLE_WITHIN_S", 10.0)
    one, late = tmp_path / "one", tmp_path / "late"
    timer = threading.Timer(0.5, lambda: late.symlink_to(one))
    timer.start()
    assert check([one, late]) == ["", ""]
    timer.join()


def test_each_node_may_have_its_own_where_the_configuration_says_so(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "other"]
    assert check(folders, is_shared=False) == ["", ""]
    assert [list(folder.iterdir()) for folder in folders] == [[], []]
    (tmp_path / "file").write_text("")
    said = check([*folders, tmp_path / "file"], is_shared=False)
    assert len(set(said)) == 3
    assert all(f"rank 2 on {socket.gethostname()} cannot make it" in message for message in said)


def test_a_folder_that_rank_0_cannot_make_ends_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = check([tmp_path / "file" / "run"] * 2)
    assert said[0] == said[1]
    assert "rank 0 on " in said[0]
    assert "cannot make it: Not a directory" in said[0]
    assert "rank 1" not in said[0]


def test_a_run_looks_before_it_starts(dataset: Path, ranks: Ranks, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"run folder .*file/run: rank 0 on .* cannot make it"):
        TrainingRun(tiny_config(dataset, tmp_path / "file" / "run"), lambda: ranks)
