"""The benchmark: its ways do the same work, from nothing each time, and its ratios can be read."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from benchmarks import bench, ways
from diffcore.data.images import as_pixels
from diffcore.filtering.encoders import load_encoder
from diffcore.generation.pipelines import LazyPipeline
from diffcore.measure import overhead
from diffcore.params import load_params

PARAMS = load_params("smoke")


def test_the_three_ways_of_drawing_draw_the_same():
    settings = PARAMS.generation.model_copy(update={"batch_size": 2})
    lazy, plan = LazyPipeline(settings.pipeline), ways.make_plan(3)
    ours = ways.draw(lazy, settings, plan).astype(int)
    assert len(np.unique(ours, axis=0)) == 3
    one_by_one = ways.draw_one_by_one(lazy.load(), settings, plan)
    np.testing.assert_allclose(ours, one_by_one, atol=1)
    batches = ways.prepare_batches(lazy.load(), settings, plan)
    assert [len(noise) for noise, *_ in batches] == [2, 1]  # as `generate` cuts them
    bare = as_pixels(ways.draw_bare(lazy.load(), settings, batches))
    np.testing.assert_allclose(ours, bare, atol=1)


def test_the_ways_of_filtering_find_the_same_and_only_the_first_embeds_anew(tmp_path, monkeypatch):
    encoder = load_encoder(PARAMS.filtering.encoder)
    real, drawn = ways.make_renders("train", 0.6, 12), ways.make_renders("test_shifted", 0.0, 15)
    assert real["class_name"].nunique() == 12
    files, seen, see = ways.write_files(real, tmp_path), [], encoder.model.encode_image
    record = lambda x, **kw: seen.append(len(x)) or see(x, **kw)  # noqa: E731
    monkeypatch.setattr(encoder.model, "encode_image", record)
    one_by_one = ways.filter_one_by_one(encoder, drawn, files)
    assert seen == [1] * 30
    for folder, embedded in (("a", 27), ("b", 27), ("a", 0)):
        seen.clear()
        cosines = ways.filter_at_once(ways.forget(encoder, tmp_path / folder), drawn, real)
        assert sum(seen) == embedded
        np.testing.assert_allclose(cosines, one_by_one, atol=1e-5)


@pytest.mark.parametrize("name", ["cub200-10/train", "tiny-imagenet-10/train"])
def test_the_sets_that_are_loaded_show_the_same_photographs(photographs, tmp_path, name):
    sets = bench.make_sets(photographs / name, tmp_path, images=6, size=48)
    assert {len(images) for images in sets.values()} == {6}
    for place in range(6):
        alone = [sets[f"photographs{way}"][place] for way in (" from files", ", kept")]
        paired = [sets[f"pairs{way}"][place] for way in (" from files", ", kept")]
        assert len({each[-1] for each in alone + paired}) == 1
        for image in (alone[1][0], paired[0][0], paired[1][0]):
            torch.testing.assert_close(image, alone[0][0], atol=1e-6, rtol=0)
        torch.testing.assert_close(paired[0][1], paired[1][1], atol=1e-6, rtol=0)
        assert (paired[0][1] - paired[0][0]).abs().mean() > 0.01  # another image


def test_a_ratio_is_of_ours_to_its_reference_of_the_same_turn_without_the_first(monkeypatch):
    clock, turns = [0.0], {"ours": iter((9, 1, 2, 3)), "theirs": iter((1, 2, 2, 2))}
    monkeypatch.setattr(overhead, "now", lambda: clock[0])

    def work(name):
        clock[0] += next(turns[name])

    jobs = {name: partial(work, name) for name in turns}
    (row,) = bench.compare("part", jobs, [("ours", "theirs", 0.8)], 3, 2).to_dict("records")
    assert row == {"part": "part", "ours": "ours", "reference": "theirs", "target": 0.8,
                   "value": 1.0, "low": 0.5, "high": 1.5, "n": 3, "ms": 1000.0,
                   "reference_ms": 1000.0}  # fmt: skip


@pytest.mark.slow
def test_the_report_holds_every_ratio_and_the_machine(tmp_path, monkeypatch, photographs, capsys):
    monkeypatch.setenv("DIFFCORE_TEST_DATA", str(photographs))
    few = {"drawing": {"images": 2}, "filtering": {"images": 1}, "mixing": {}, "loading": {}}
    parts = {name: partial(bench.PARTS[name], repeats=2, **few[name]) for name in few}
    monkeypatch.setattr(bench, "PARTS", bench.PARTS | parts)
    assert bench.main(["--profile", "smoke", "--out", str(tmp_path / "new")]) == 0
    written = json.loads((tmp_path / "new" / "times.json").read_text())
    rows = written["ratios"]
    count = {name: sum(row["part"].startswith(name) for row in rows) for name in (*few, "step")}
    assert count == {"drawing": 2, "filtering": 6, "mixing": 6, "loading": 6, "step": 4}
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    assert [row["target"] for row in rows if "target" in row] == [0.25, 1.1, 1.25, 1.25]
    assert written["machine"]["threads"] == torch.get_num_threads()
    figures = {path.name for path in (tmp_path / "new/figures").iterdir()}
    assert figures == {"ratios.png", "ratios.svg"}
    assert "embeddings kept" in capsys.readouterr().out


def test_photographs_that_are_not_there_are_named_and_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DIFFCORE_TEST_DATA", str(tmp_path))
    assert bench.bench_loading(PARAMS).empty
    assert capsys.readouterr().out.count("is not there") == 2
