"""The doctor: every finding says what was found, every fault what to do."""

from __future__ import annotations

import importlib.util

import pytest

from ddetr_lab import doctor


def test_this_machine_is_fit(capsys):
    assert doctor.report() == 0
    out = capsys.readouterr().out
    assert "All that is needed is here." in out
    assert "grid_sample" in out


def test_findings_name_the_operator_path_and_the_shipped_weights():
    findings = {finding.subject: finding for finding in doctor.examine()}
    assert {"python", "torch", "timm", "device", "operator", "weights"} <= set(findings)
    assert "deformable attention runs through" in findings["operator"].text
    assert findings["weights"].state == "ok"
    assert "digits" in findings["weights"].text


@pytest.mark.parametrize(("missing", "code", "state"), [("timm", 1, "fail"), ("matplotlib", 0, "note")])
def test_a_missing_package_has_a_remedy(missing, code, state, monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name == missing else real(name))
    assert doctor.report() == code
    out = capsys.readouterr().out
    assert f"python -m pip install {missing}" in out
    line = next(line for line in out.splitlines() if line.split()[1:2] == [missing])
    assert line.startswith(state)
    assert ("Not usable" in out) == (code == 1)


def test_missing_weights_are_a_note_with_a_remedy(monkeypatch):
    def gone(name):
        raise KeyError(f"shipped({name!r}): nothing there")

    monkeypatch.setattr("ddetr_lab.checkpoints.shipped", gone)
    finding = next(finding for finding in doctor.examine() if finding.subject == "weights")
    assert finding.state == "note"
    assert "ddetr-lab train digits" in finding.remedy
