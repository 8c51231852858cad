"""How the command line says who judges, and how sure to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from optix_stream.cli.parsing import build_parser
from optix_stream.cli.training import TrainSettings, settings_of
from optix_stream.errors import ConfigurationError
from optix_stream.judges import EvidenceConfig


def settings(tmp_path: Path, *options: str) -> TrainSettings:
    return settings_of(
        build_parser().parse_args(["train", "CartPole-v1", "--checkpoint-dir", str(tmp_path / "run"), *options])
    )


def test_the_preset_is_judged_by_evidence(tmp_path: Path) -> None:
    preset = settings(tmp_path).preset
    assert preset.judge == "evidence"
    assert EvidenceConfig(**preset.evidence).windows_per_false_alarm == 10_000
    assert not settings(tmp_path).rolls_back


def test_what_is_said_on_the_command_line_counts(tmp_path: Path) -> None:
    chosen = settings(
        tmp_path, "--judge", "threshold", "--minimal-effect", "2.5", "--windows-per-false-alarm", "1000", "--rollback"
    )
    assert chosen.preset.judge == "threshold"
    config = EvidenceConfig(**chosen.preset.evidence)
    assert (config.minimal_effect, config.windows_per_false_alarm) == (2.5, 1000)
    assert config.effect_unit == "score", "the preset's, as the rest of it"
    assert chosen.rolls_back


@pytest.mark.parametrize("value", ["0", "-1", "nan", "1e999", "much"])
def test_an_effect_that_is_none_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigurationError, match="expected a finite number above 0"):
        settings(tmp_path, "--minimal-effect", value)
