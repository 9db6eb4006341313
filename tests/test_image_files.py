"""The files that an INPUT names, be it a folder, a glob or a file: links, hidden files, formats."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.api import plan, run
from pipeline.errors import UsageError
from pipeline.imagery.header import describe
from pipeline.imagery.identity import NO_FILE
from pipeline.imagery.input_file import InputFile
from pipeline.imagery.other_formats import missing_driver
from pipeline.imagery.source import find_inputs
from pipeline.settings import Execution, Settings
from pipeline.storage.access import DEFAULT_ACCESS
from tests.support.archives import write_scene
from tests.support.outputs import differences, rows
from tests.support.sidecars import PLACE, write_aux

SETTINGS = Settings(window=64, stride=48, batch=2)
LOCAL = Execution(runner="local")


def found(*inputs: Path | str) -> dict[str, InputFile]:
    """The files that INPUTs name, by scene_id."""
    return {f.scene_id: f for f in find_inputs([str(one) for one in inputs], DEFAULT_ACCESS)}


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    """A folder of links, to a file and to a folder, as staging tools leave them."""
    real = write_scene(tmp_path / "real" / "a.tif", 100, 80, seed=1)
    write_scene(tmp_path / "real" / "sub" / "b.tif", 90, 70, seed=2)
    os.utime(real, (1_577_836_800,) * 2)
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.tif").symlink_to("../real/a.tif")
    (folder / "sub").symlink_to("../real/sub")
    return folder


def test_linked_files_and_folders_have_the_rows_of_what_they_lead_to(
    staged: Path, small_checkpoint: str, tmp_path: Path
) -> None:
    out, direct = tmp_path / "out", tmp_path / "direct"
    receipt = run([str(staged)], small_checkpoint, str(out), SETTINGS, LOCAL)
    assert (receipt.scenes_done, receipt.scenes_quarantined) == (2, 0)
    run([str(tmp_path / "real")], small_checkpoint, str(direct), SETTINGS, LOCAL)
    assert differences(direct, out, "masks", "statistics") == []
    again = run([str(staged)], small_checkpoint, str(out), SETTINGS, LOCAL)
    assert (again.units_computed, again.notes) == (0, receipt.notes)


def test_a_target_may_have_a_name_that_is_no_utf_8(tmp_path: Path) -> None:
    odd = write_scene(tmp_path / "a.tif", 30, 20).rename(tmp_path / os.fsdecode(b"\xff.tif"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tif").symlink_to(odd)
    (file,) = found(tmp_path / "in").values()
    assert describe(file, SETTINGS, 3).width == 30


def test_folder_glob_and_name_agree_about_a_link(staged: Path) -> None:
    by_folder = found(staged)
    assert by_folder.keys() == {"a.tif", "sub/b.tif"}
    assert found(staged / "*.tif") == {"a.tif": by_folder["a.tif"]} == found(staged / "a.tif")
    assert found(staged / "**" / "*.tif") == by_folder
    # The bytes are those of the target, not of the link.
    direct = found(staged.parent / "real")
    assert {key: f.version for key, f in by_folder.items()} == {
        key: f.version for key, f in direct.items()
    }


def test_a_target_that_changes_is_a_change(
    staged: Path, small_checkpoint: str, tmp_path: Path
) -> None:
    arguments = [str(staged)], small_checkpoint, str(tmp_path / "out"), SETTINGS, LOCAL
    run(*arguments)
    write_scene(tmp_path / "real" / "a.tif", 100, 80, seed=3)
    (note,) = (note for note in run(*arguments).notes if "changed" in note)
    assert f"1 input has changed since it was planned, first {staged}/a.tif" in note


def test_circles_of_folders_end_and_a_file_with_two_links_is_two_scenes(staged: Path) -> None:
    (staged / "here").symlink_to(".")
    (staged / "above").symlink_to("..")
    (staged.parent / "real" / "sub" / "back").symlink_to("../../in")
    (staged / "twin.tif").symlink_to("a.tif")
    files = found(staged)
    inside = {key for key in files if not key.startswith("above/")}
    assert inside == {"a.tif", "twin.tif", "sub/b.tif"}
    # Above the INPUT, only the INPUT itself is not entered again.
    assert {key.removeprefix("above/") for key in files.keys() - inside} == {
        "real/a.tif",
        "real/sub/b.tif",
    }
    assert files["a.tif"].version == files["twin.tif"].version


def test_links_that_lead_nowhere_are_quarantined_with_link_and_target(
    staged: Path, small_checkpoint: str, tmp_path: Path
) -> None:
    (staged / "gone.tif").symlink_to("../real/gone.tif")
    (staged / "circle.tif").symlink_to("other.tif")
    (staged / "other.tif").symlink_to("circle.tif")
    (staged / "odd.tif").symlink_to(os.fsdecode(b"two\nlines, and no UTF-8: \xff"))
    (staged / "2021.05").symlink_to("../real/2021.05")  # perhaps a folder of images
    (staged / "readme.txt").symlink_to("nothing")  # certainly none
    out = tmp_path / "out"
    receipt = run([str(staged)], small_checkpoint, str(out), SETTINGS, LOCAL)
    assert (receipt.scenes_done, receipt.scenes_quarantined) == (2, 5)
    said = {row["scene_id"]: row["message"] for row in rows(out, "quarantine").to_pylist()}
    real = tmp_path / "real"
    assert f"it is a link to {real}/gone.tif, which does not exist" in said["gone.tif"]
    assert f"it is a link to {real}/2021.05, which does not exist" in said["2021.05"]
    assert "two\\nlines, and no UTF-8: \\xff, which does not exist" in said["odd.tif"]
    assert "it is a link to other.tif, which leads in a circle" in said["circle.tif"]
    # Once they lead somewhere, the same command computes them.
    write_scene(tmp_path / "real" / "gone.tif", 60, 50)
    receipt = run([str(staged)], small_checkpoint, str(out), SETTINGS, LOCAL)
    assert (receipt.scenes_done, receipt.scenes_quarantined) == (3, 4)


@pytest.mark.parametrize("kind", ["file", "folder", "glob", "on the way"])
def test_an_input_that_is_a_link_to_nowhere_is_refused(tmp_path: Path, kind: str) -> None:
    link = tmp_path / ("a.tif" if kind == "file" else "in")
    link.symlink_to("missing")
    named = {"glob": link / "*.tif", "on the way": link / "sub" / "a.tif"}.get(kind, link)
    with pytest.raises(UsageError, match=rf"is a link to {tmp_path}/missing, which does not exist"):
        found(named)


def test_side_cars_are_looked_for_beside_the_link(staged: Path) -> None:
    assert found(staged)["a.tif"].sidecars == ()
    aux = write_aux(staged.parent / "real" / "a.tif", PLACE)
    assert found(staged)["a.tif"].sidecars == ()
    (staged / aux.name).symlink_to(aux)
    files = found(staged)
    assert files["a.tif"].sidecars == ("a.tif.aux.xml",)
    assert found(staged / "a.tif")["a.tif"] == found(staged / "*.tif")["a.tif"] == files["a.tif"]
    assert files["a.tif"].version == found(staged.parent / "real")["a.tif"].version


@pytest.mark.parametrize(
    "pattern", ["", "/*.tif", "/**/*.tif", "/*", "/[a-z]*.tif", "/?.tif"], ids=str
)
def test_hidden_files_and_folders_are_left_out(tmp_path: Path, pattern: str) -> None:
    folder = tmp_path / "in"
    write_scene(folder / "a.tif", 30, 20)
    (folder / "._a.tif").write_bytes(b"\0\5\x16\7")
    write_scene(folder / ".trash" / "b.tif", 30, 20)
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "._a.tif").write_bytes(b"\0\5\x16\7")
    assert found(f"{folder}{pattern}").keys() == {"a.tif"}


def test_a_hidden_name_that_is_asked_for_is_taken(tmp_path: Path) -> None:
    hidden = write_scene(tmp_path / ".cache" / ".b.tif", 30, 20)
    write_scene(tmp_path / ".cache" / "c.tif", 30, 20)
    assert found(hidden).keys() == {".b.tif"}
    assert found(hidden.parent).keys() == {"c.tif"}
    assert found(tmp_path / ".*" / "*.tif").keys() == {".cache/.b.tif", ".cache/c.tif"}
    assert found(hidden.parent / ".*.tif").keys() == {".b.tif"}


def test_a_glob_leaves_out_side_cars_unless_it_matches_nothing_else(tmp_path: Path) -> None:
    image = write_scene(tmp_path / "a.tif", 30, 20)
    write_aux(image, PLACE)
    for name in ("a.tif.msk", "a.tfw", "a.tif.ovr"):
        (tmp_path / name).touch()
    assert found(tmp_path / "*").keys() == found(tmp_path / "a.tif*").keys() == {"a.tif"}
    assert found(tmp_path / "*.msk").keys() == {"a.tif.msk"}


def test_a_world_file_in_other_case_is_found_in_every_way(tmp_path: Path) -> None:
    write_scene(tmp_path / "O44.TIF", 30, 20)
    (tmp_path / "o44.tfw").write_text("1\n0\n0\n-1\n0\n0")
    for named in (tmp_path, tmp_path / "*.TIF", tmp_path / "O44.TIF"):
        assert found(named)["O44.TIF"].sidecars == ("o44.tfw",)


def test_only_regular_files_are_read(small_checkpoint: str, tmp_path: Path) -> None:
    write_scene(tmp_path / "in" / "a.tif", 30, 20)
    os.mkfifo(tmp_path / "in" / "pipe.tif")
    (failure,) = plan([str(tmp_path / "in")], small_checkpoint, SETTINGS, LOCAL).failures
    assert "pipe.tif: is a pipe, a socket or a device, not a file" in failure.message


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder of a user without privileges, who this process is meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        is_root = os.geteuid() == 0
        if is_root:
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            if is_root:
                os.seteuid(0)
            for path in Path(folder).rglob("*"):
                path.chmod(0o700)


def test_a_folder_that_may_not_be_listed_is_left_out_with_a_warning(
    nobody: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("in/a.tif", "in/lost+found/b.tif", "in/private/c.tif"):
        (nobody / name).parent.mkdir(parents=True, exist_ok=True)
        (nobody / name).touch()
    for name in ("in/lost+found", "in/private"):
        (nobody / name).chmod(0)
    assert found(nobody / "in").keys() == {"a.tif"}
    (warning,) = caplog.messages
    assert "(and 1 more): permission denied: what is in there is left out" in warning


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (["a.ecw", "b.ECW", "c.sid"], r"it has 2 \.ecw of the format ECW, for which GDAL has no"),
        (["a.sid"], r"1 \.sid of the format MrSID, .*: gdal_translate IN\.sid OUT\.tif$"),
        (["a.nc", "notes.txt"], r"it has 1 \.nc: name them, e\.g\. '.*/\*\*/\*\.nc'$"),
        (["a.vrt"], r"it has 1 \.vrt: name them"),
        (["notes.txt"], r"holds no raster file \(\.tif, .*\); name another folder or glob$"),
        ([], r"holds no file; .* see that its disk is mounted$"),
    ],
)
def test_a_folder_without_an_image_says_what_it_has_instead(
    tmp_path: Path, names: list[str], hint: str
) -> None:
    (tmp_path / "in").mkdir()
    for name in names:
        (tmp_path / "in" / name).touch()
    with pytest.raises(UsageError, match=hint):
        found(tmp_path / "in")


@pytest.mark.parametrize(
    ("name", "driver"),
    [("a.ecw", "ECW"), ("A.SID", "MrSID"), ("a.hdf", "HDF4"), ("a.jxl", "JPEGXL")],
)
def test_a_format_without_a_driver_is_named_with_what_converts_it(
    tmp_path: Path, small_checkpoint: str, name: str, driver: str
) -> None:
    path = tmp_path / name
    path.write_bytes(b"\0\1\2\3" * 100)
    message = (
        rf"is of the format {driver}, for which GDAL has no driver here; .*gdal_translate {name}"
    )
    with pytest.raises(UsageError, match=message):
        plan([str(path)], small_checkpoint, SETTINGS, LOCAL)


def test_a_format_with_a_driver_is_not_called_one_without() -> None:
    assert [missing_driver(name) for name in ("a.tif", "a.nc", "a", "a.vrt")] == [None] * 4


@pytest.mark.parametrize("pattern", ["**.tif", "missing/*.tif", "*.png"])
def test_a_glob_that_is_none_or_matches_nothing_is_refused(tmp_path: Path, pattern: str) -> None:
    write_scene(tmp_path / "a.tif", 30, 20)
    with pytest.raises(UsageError, match=r"Invalid pattern|no folder|matches no file"):
        found(tmp_path / pattern)


@pytest.mark.parametrize("code", [errno.EUCLEAN, errno.EBADMSG, errno.ENOKEY, errno.EOVERFLOW])
def test_a_file_whose_inode_is_damaged_does_not_end_the_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    names = [write_scene(tmp_path / f"{name}.tif", 30, 20).name for name in ("bad", "good")]
    ask = os.stat

    def answer(path: Any, **options: Any) -> os.stat_result:
        if str(path).endswith("bad.tif"):
            raise OSError(code, os.strerror(code), path)
        return ask(path, **options)

    monkeypatch.setattr(os, "stat", answer)
    files = found(tmp_path)
    assert sorted(files) == names
    assert [files[name].version == NO_FILE for name in names] == [True, False]
