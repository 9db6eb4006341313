"""An INPUT that is gone as a whole, as after a disk was unmounted: no input is blamed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.api import run
from pipeline.errors import UnfinishedError, UsageError
from pipeline.imagery.header_pool import HeaderPool
from pipeline.imagery.outage import check_input_is_there
from pipeline.imagery.source import describe_inputs, find_inputs
from pipeline.progress import Progress
from pipeline.settings import Execution, Settings
from pipeline.storage.access import DEFAULT_ACCESS
from tests.support.archives import write_scene
from tests.support.commands import Swath, assert_one_error_line
from tests.support.outputs import differences, receipts, rows

SETTINGS = Settings(window=64, stride=48, batch=2)
LOCAL = Execution(runner="local")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    for number in range(3):
        write_scene(tmp_path / "in" / "sub" / f"{number}.tif", 100, 80, seed=number)
    return tmp_path / "in"


def rename(folder: Path) -> Callable[[], object]:
    """Take a folder away; returns what brings it back."""
    away = folder.rename(folder.with_name("away"))
    return lambda: away.rename(folder)


def empty(folder: Path) -> Callable[[], object]:
    """Leave an empty folder, as a mount point is; returns what fills it again."""
    bring_back = rename(folder)
    folder.mkdir()

    def fill() -> None:
        folder.rmdir()
        bring_back()

    return fill


@pytest.mark.parametrize("unmount", [rename, empty])
@pytest.mark.parametrize("pattern", ["", "/sub/*.tif", "/sub/1.tif"], ids=str)
def test_a_run_whose_input_is_unmounted_ends_and_is_resumed(
    small_checkpoint: str,
    archive: Path,
    tmp_path: Path,
    unmount: Callable[[Path], Callable[[], object]],
    pattern: str,
) -> None:
    inputs, out = [f"{archive}{pattern}"], tmp_path / "out"
    bring_back: list[Callable[[], object]] = []
    root = archive / "sub" if pattern else archive

    def disturb(progress: Progress) -> None:
        before_last = progress.done_units == progress.total_units - 1
        if before_last and not bring_back:
            bring_back.append(unmount(root))

    with pytest.raises(UnfinishedError, match="after its disk was unmounted") as stopped:
        run(inputs, small_checkpoint, str(out), SETTINGS, LOCAL, on_progress=disturb)
    assert str(stopped.value).startswith(f"{root}: ")
    assert str(stopped.value).endswith("mount it again: the same command resumes the run")
    assert receipts(out)[-1]["failures"] == []
    with pytest.raises(UsageError, match=r"its disk is mounted|no folder|matches no file"):
        run(inputs, small_checkpoint, str(out), SETTINGS, LOCAL)
    bring_back[0]()
    receipt = run(inputs, small_checkpoint, str(out), SETTINGS, LOCAL)
    assert (receipt.units_computed, receipt.failures) == (1, ())
    run(inputs, small_checkpoint, str(tmp_path / "calm"), SETTINGS, LOCAL)
    assert differences(tmp_path / "calm", out) == []


@pytest.mark.ray
@pytest.mark.slow
def test_it_ends_a_run_on_ray(
    swath: Swath, small_checkpoint: str, archive: Path, tmp_path: Path
) -> None:
    """Every unit is read after the folder is gone."""
    out = tmp_path / "out"
    bring_back: list[Callable[[], object]] = []

    def disturb(progress: Progress) -> None:
        del progress
        if not bring_back:
            bring_back.append(rename(archive))

    execution = Execution(replicas=1)
    with pytest.raises(
        UnfinishedError, match="there is no such folder any more, as after its disk"
    ):
        run([str(archive)], small_checkpoint, str(out), SETTINGS, execution, on_progress=disturb)
    assert receipts(out)[-1]["failures"] == []
    paths = [archive, "--checkpoint", small_checkpoint, "--output", out, "--runner", "local"]
    options = ["--window", "64", "--stride", "48", "--batch", "2"]
    code, _, said = swath("run", *paths, *options)
    assert code == 2
    assert_one_error_line(said)
    assert f"{archive}: no such file or folder; check the path, and that its disk is" in said
    bring_back[0]()
    assert swath("run", *paths, *options)[0] == 0
    assert rows(out, "quarantine").num_rows == 0


def test_headers_are_not_blamed_either(archive: Path) -> None:
    files = find_inputs([str(archive)], DEFAULT_ACCESS)
    bring_back = empty(archive)
    with pytest.raises(UnfinishedError, match="the folder is empty now, as after its disk"):
        describe_inputs(files, SETTINGS, 3, DEFAULT_ACCESS, HeaderPool())
    bring_back()
    assert describe_inputs(files, SETTINGS, 3, DEFAULT_ACCESS, HeaderPool()).results


def test_a_linked_folder_may_be_a_disk_of_its_own(
    small_checkpoint: str, archive: Path, tmp_path: Path
) -> None:
    disk = (archive / "sub").rename(tmp_path / "disk")
    (archive / "sub").symlink_to(disk)
    write_scene(archive / "z.tif", 100, 80)

    def disturb(progress: Progress) -> None:
        if progress.done_units == 0 and any(disk.iterdir()):
            empty(disk)

    out = tmp_path / "out"
    with pytest.raises(UnfinishedError, match=rf"^{archive}/sub: the folder is empty now"):
        run([str(archive)], small_checkpoint, str(out), SETTINGS, LOCAL, on_progress=disturb)
    assert receipts(out)[-1]["failures"] == []


def test_a_single_file_that_vanishes_is_that_file_s_fault(
    small_checkpoint: str, archive: Path, tmp_path: Path
) -> None:
    def delete(progress: Progress) -> None:
        del progress
        (archive / "sub" / "1.tif").unlink(missing_ok=True)

    out = tmp_path / "out"
    receipt = run([str(archive)], small_checkpoint, str(out), SETTINGS, LOCAL, on_progress=delete)
    assert (receipt.scenes_done, receipt.scenes_quarantined) == (2, 1)
    (failure,) = receipt.failures
    assert f"{archive}/sub/1.tif: vanished after it was planned" in failure.message


def test_what_is_there_or_remote_is_no_outage(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.symlink_to("nothing")
    for url in (str(path), str(tmp_path / "b.tif"), "s3://bucket/a.tif"):
        check_input_is_there(url, url.rpartition("/")[2])
    with pytest.raises(UnfinishedError):
        check_input_is_there("/nowhere/at/all/a.tif", "all/a.tif")
