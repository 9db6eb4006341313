"""Nothing in the environment of a process decides rows: whatever PROJ, GDAL, numpy, numba, the
locale, HOME, TMPDIR and the user are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyproj.datadir
import pytest
import rasterio
from rasterio._env import get_gdal_config, get_gdal_data, get_proj_data_search_paths
from rasterio.crs import CRS

from pipeline.api import run
from pipeline.earth.crs import PROJ_DATA
from pipeline.imagery.gdal import gdal_env
from pipeline.processes.variables import settle_variables
from pipeline.settings import Execution, Settings
from tests.support.clusters import TOKEN, another_cluster, token_variables
from tests.support.commands import assert_one_error_line
from tests.support.hostile import ENVIRONMENTS, ROOT, environment, without_a_name, write_traps
from tests.support.outputs import differences, receipts
from tests.support.places import describe_places, write_places

SETTINGS = Settings(window=64, stride=48, batch=4)
OPTIONS = ["--window=64", "--stride=48", "--batch=4"]
DESCRIBE = "import pipeline; from tests.support.places import main; main()"
"""A script in which Swath comes first, as in every process of its commands."""
STARTED_BEFORE = """
import os, sys
os.environ["PROJ_DATA"] = "/nonexistent"
import pyproj, pyproj.datadir, rasterio
pyproj.datadir.set_data_dir(sys.argv[2] + "/proj")
with rasterio.Env(GTIFF_POINT_GEO_IGNORE=True, GDAL_PAM_ENABLED=False):
    rasterio.open(sys.argv[1] + "/0.tif").close()
    from tests.support.places import main
    os.environ["PROJ_LIB"] = os.environ["GDAL_DATA"] = "/nonexistent"
    main()
"""
"""A script that has used PROJ and GDAL in its own way before it calls Swath."""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_places(tmp_path_factory.mktemp("archive") / "places")


@pytest.fixture(scope="module")
def traps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_traps(tmp_path_factory.mktemp("traps"))


@pytest.fixture(scope="module")
def expected(places: Path) -> dict[str, object]:
    described: dict[str, object] = json.loads(json.dumps(describe_places(places)))
    assert all(isinstance(taken, list) for taken in described.values())
    return described


@pytest.fixture(scope="module")
def output(places: Path, small_checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run in this process."""
    folder = tmp_path_factory.mktemp("output") / "out"
    run([str(places)], small_checkpoint, str(folder), SETTINGS, Execution(runner="local"))
    return folder


def printed(*words: object, env: dict[str, str]) -> str:
    """What a command prints on stdout. It must end with exit code 0."""
    done = subprocess.run(
        list(map(str, words)), env=env, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_pixels_places_areas_and_outlines_are_the_same_in_every_environment(
    places: Path, traps: Path, expected: dict[str, object], name: str
) -> None:
    env = environment(name, traps=traps)
    assert json.loads(printed(sys.executable, "-c", DESCRIBE, places, env=env)) == expected


def test_they_are_the_same_for_a_script_that_has_used_proj_and_gdal_in_its_own_way(
    places: Path, traps: Path, expected: dict[str, object]
) -> None:
    env = environment(traps=traps)
    text = printed(sys.executable, "-c", STARTED_BEFORE, places, traps, env=env)
    assert json.loads(text) == expected


def test_variables_that_decide_rows_are_removed_and_others_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deciding = ["GDAL_PAM_ENABLED", "GTIFF_IGNORE_READ_ERRORS", "JPEG_READ_MASK"]
    deciding += ["OSR_DEFAULT_AXIS_MAPPING_STRATEGY", "PROJ_NETWORK", "USE_TILE_AS_BLOCK"]
    deciding += ["NUMBA_DISABLE_JIT", "NVIDIA_TF32_OVERRIDE"]
    deciding += ["ONEDNN_DEFAULT_FPMATH_MODE", "VRT_VIRTUAL_OVERVIEWS"]
    kept = ["AWS_PROFILE", "CPL_DEBUG", "CURL_CA_BUNDLE", "GDAL_HTTP_PROXY", "SSL_CERT_FILE"]
    kept += ["GDAL_CURL_CA_BUNDLE", "NUMBA_CACHE_DIR", "PROJ_CURL_CA_BUNDLE", "OMP_NUM_THREADS"]
    for name in (*deciding, *kept, "GDAL_SKIP", "GDAL_CONFIG_FILE"):
        monkeypatch.setenv(name, "7")
    settle_variables()
    assert [name for name in deciding if name in os.environ] == []
    assert [name for name in kept if os.environ.get(name) != "7"] == []
    assert "WMS" in os.environ["GDAL_SKIP"]
    assert os.environ["GDAL_CONFIG_FILE"] == os.devnull


def test_gdal_and_proj_have_their_own_data_and_options_inside_anybodys_env(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PROJ_DATA", "/nonexistent")
    monkeypatch.setenv("GDAL_DATA", "/nonexistent")
    wheel = Path(rasterio.__file__).parent
    with rasterio.Env(GTIFF_POINT_GEO_IGNORE=True), gdal_env():
        assert get_proj_data_search_paths() == [str(wheel / "proj_data")]
        assert get_gdal_data() == str(wheel / "gdal_data")
        assert get_gdal_config("GTIFF_POINT_GEO_IGNORE") == "NO"
        assert CRS.from_epsg(2154).to_authority() == ("EPSG", "2154")
    monkeypatch.undo()
    with rasterio.Env():
        assert get_proj_data_search_paths() == [str(wheel / "proj_data")]
    assert pyproj.datadir.get_data_dir() == str(PROJ_DATA)


def command(places: Path, checkpoint: str, out: Path, *options: str) -> list[str]:
    """A run of the archive, as a command."""
    words = [sys.executable, "-m", "jobs.cli", "run", str(places), "--checkpoint", checkpoint]
    return [*words, "--output", str(out), *OPTIONS, *options]


@pytest.mark.slow
def test_a_run_gives_the_same_rows_in_all_environments_together(
    places: Path, traps: Path, small_checkpoint: str, output: Path, tmp_path: Path
) -> None:
    env = environment(*ENVIRONMENTS, traps=traps)
    printed(*command(places, small_checkpoint, tmp_path / "out", "--runner=local"), env=env)
    assert differences(output, tmp_path / "out") == []
    assert receipts(tmp_path / "out")[0]["notes"] == receipts(output)[0]["notes"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_run_gives_the_same_rows_in_every_environment(
    places: Path, traps: Path, small_checkpoint: str, output: Path, tmp_path: Path, name: str
) -> None:
    env = environment(name, traps=traps)
    printed(*command(places, small_checkpoint, tmp_path / "out", "--runner=local"), env=env)
    assert differences(output, tmp_path / "out") == []


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_on_ray_gives_the_same_rows_in_all_environments_together(
    places: Path, traps: Path, small_checkpoint: str, output: Path, tmp_path: Path
) -> None:
    env = environment(*ENVIRONMENTS, traps=traps)
    options = ["--runner=ray", "--replicas=1"]
    printed(*command(places, small_checkpoint, tmp_path / "out", *options), env=env)
    assert differences(output, tmp_path / "out") == []


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_on_a_cluster_in_a_hostile_environment_gives_the_same_rows(
    places: Path,
    traps: Path,
    small_checkpoint: str,
    output: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its workers have their environment from their node, not from the driver."""
    driver = environment(traps=traps) | token_variables(TOKEN)
    # Without the last two: Ray needs a folder, and numpy is loaded before Swath there.
    for name, value in environment(*list(ENVIRONMENTS)[:-2], traps=traps).items():
        monkeypatch.setenv(name, value)
    with another_cluster(num_cpus=3) as address:
        options = [f"--address={address}", "--replicas=1"]
        printed(*command(places, small_checkpoint, tmp_path / "out", *options), env=driver)
    assert differences(output, tmp_path / "out") == []


@pytest.mark.slow
def test_python_without_docstrings_is_refused_for_ray_in_one_line(
    places: Path, traps: Path, small_checkpoint: str, output: Path, tmp_path: Path
) -> None:
    env = environment(traps=traps) | {"PYTHONOPTIMIZE": "2"}
    words = command(places, small_checkpoint, tmp_path / "out")
    refused = subprocess.run(
        [*words, "--runner=ray"], env=env, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert_one_error_line(refused.stderr)
    printed(*words, "--runner=local", env=env)
    assert differences(output, tmp_path / "out") == []


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("runner", ["local", "ray"])
def test_commands_work_for_a_user_without_a_name_and_a_home(
    places: Path, small_checkpoint: str, output: Path, tmp_path: Path, runner: str
) -> None:
    prefix = without_a_name()
    if not prefix:
        pytest.skip("nobody can become another user here")
    env = environment(traps=tmp_path)
    options = [f"--runner={runner}", "--replicas=1"]
    with tempfile.TemporaryDirectory() as theirs:  # pytest's folders are root's alone
        Path(theirs).chmod(0o777)
        out = Path(theirs) / "out"
        words = command(places, small_checkpoint, out, *options)
        printed(*prefix, *(word if word != "run" else "plan" for word in words), env=env)
        printed(*prefix, *words, env=env)
        assert differences(output, out) == []
        swath = [*prefix, sys.executable, "-m", "jobs.cli"]
        assert "done" in printed(*swath, "status", out, env=env)
        home = subprocess.run(
            [*swath, "status", "~/out"],
            env=env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert home.returncode == 2
        assert_one_error_line(home.stderr)
        assert "~/out: there is no home folder here; write the whole path" in home.stderr
        sql = "SELECT count(*) AS n FROM scenes"
        counted = printed(*swath, "query", out, sql, "--format=csv", env=env)
        assert counted.split() == ["n", str(len(list(places.glob("*.*"))) - 1)]
