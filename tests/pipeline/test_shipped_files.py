"""Configurations are found by their name, in a checkout and in an environment that has the wheel alone."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from support.repository import ROOT

from trl_tar.cli.main import main
from trl_tar.pipeline.shipped_files import shipped, shipped_config


@pytest.mark.parametrize("name", ["bio", "bio.yaml", "recipes/configs/bio.yaml"])
def test_a_name_is_that_of_a_configuration_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(shipped_config(name)) == ROOT / "recipes" / "configs" / "bio.yaml"


def test_a_file_that_is_there_goes_before_and_a_suites_name_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bio").touch()
    assert [shipped_config("bio"), shipped_config("none"), shipped_config("my/bio.yaml")] == [
        "bio",
        "none",
        "my/bio.yaml",
    ]
    assert [shipped("refusal"), shipped("recipes/none.yaml")] == ["refusal", "recipes/none.yaml"]
    assert Path(shipped("recipes/configs/testbed_knowledge_attacks.yaml")).is_file()


def test_harden_refuses_in_the_name_of_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["harden", "knowledge", "--config", "testbed_knowledge", "--output_dir", "run", "--repair_steps", "0"])
    assert ended.value.code == 2 and not Path("run").exists()
    assert capsys.readouterr().err == (
        "trl-tar harden knowledge: The recipe has repair_steps=0. Use a finite number above 0.\n"
    )


@pytest.mark.slow
def test_the_wheel_hardens_and_is_typed(tmp_path):
    """In an environment whose only package is the wheel; what it depends on is that of the tests."""
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(tmp_path / "dist"),
        str(ROOT),
    ]
    subprocess.run(build, check=True)
    (wheel,) = (tmp_path / "dist").glob("trl_tar-*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True, env=environment)
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    where = subprocess.run(
        [python, "-c", "import trl_tar; print(trl_tar.__file__)"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(site), where
    assert (site / "trl_tar" / "py.typed").is_file()
    command = [tmp_path / "env" / "bin" / "trl-tar", "harden", "knowledge", "--config", "testbed_knowledge"]
    command += ["--max_steps", "2", "--attack_seeds", "0", "--output_dir", "run"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path / "run" / "tar" / "model.safetensors").is_file(), done.stderr
