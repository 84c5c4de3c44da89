"""Lines of a run in a file: how far a round is, and how long the rest takes."""

from dpm.cli import progress


def test_lines_say_how_long_the_rest_takes(monkeypatch, capsys):
    clock = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    lines = progress.LineProgress()
    # A thousand parts of ten seconds, of which a run before did 400: its parts tell nothing of this one's speed.
    lines.stage_started("artificial_stars", 3, 0, "serial")
    lines.round_started("artificial_stars", 1000, 400)
    for _ in range(600):
        clock[0] += 10.0
        lines.part_finished("artificial_stars", "part", None)
    text = capsys.readouterr().err.splitlines()[1:]
    assert 8 <= len(text) <= 11
    assert text[0] == "artificial_stars 461 of 1000 parts, about 90 min left"
    assert progress.time_left(100.0, 10, 900) == "2.5 h" and progress.time_left(1.0, 10, 50) == "5 s"


def test_the_page_of_a_cluster_is_told_once(capsys):
    lines = progress.LineProgress()
    for name in ("ingest", "psf"):
        lines.stage_started(name, 1, 0, "2 workers at tcp://127.0.0.1:3, page http://127.0.0.1:8787/dpm")
    assert capsys.readouterr().err.splitlines() == ["page         http://127.0.0.1:8787/dpm"]
