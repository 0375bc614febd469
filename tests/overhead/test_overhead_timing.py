"""The clocks measure what they say, and leave what they watch as it was."""

import time

import numpy as np
import pandas as pd
import pytest

from diffcore.generation.pipelines import LazyPipeline
from diffcore.measure import timing
from diffcore.params import load_params
from diffcore.prompts.plan import plan_generation
from diffcore.prompts.prompt_set import load_prompt_set

SETTINGS = load_params("smoke").generation


@pytest.fixture(scope="module")
def pipeline():
    return LazyPipeline(SETTINGS.pipeline).load()


def test_jobs_take_turns_in_changing_order():
    order = []
    jobs = {name: lambda name=name: order.append(name) or {"p": 1.0} for name in "abc"}
    table = timing.take_repeats(jobs, repeats=8)
    rounds = ["".join(order[start : start + 3]) for start in range(0, 24, 3)]
    assert {"".join(sorted(each)) for each in rounds} == {"abc"}
    assert len(set(rounds)) > 1
    assert table["job"].tolist() == list("abc") * 8
    assert table["repeat"].tolist() == np.repeat(range(8), 3).tolist()


def test_time_inside_the_networks_is_counted_and_the_networks_left_as_they_were(pipeline):
    hook = pipeline.unet.conv_in.register_forward_pre_hook(lambda *_: time.sleep(0.05))

    def draw():
        pipeline("a blue jay", num_inference_steps=2, height=64, width=64)
        time.sleep(0.3)

    started = time.perf_counter()
    spent = timing.time_drawing(pipeline, draw)
    took = time.perf_counter() - started
    hook.remove()
    assert spent["UNet"] >= 0.1
    assert spent["autoencoder"] > 0
    assert spent[timing.REST] >= 0.3
    assert took - 0.1 < sum(spent.values()) <= took
    with pytest.raises(ZeroDivisionError):
        timing.time_drawing(pipeline, lambda: 1 / 0)
    assert "forward" not in vars(pipeline.unet)
    assert "decode" not in vars(pipeline.vae)


def test_drawing_is_timed_from_nothing_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    sources = pd.DataFrame({"source_id": ["a", "b", "c"], "class_name": "blue jay"})
    plan = plan_generation(sources, load_prompt_set("paperbirds"), generated_share=1, seed=0)
    spent = timing.time_generation(plan, LazyPipeline(SETTINGS.pipeline), SETTINGS)
    assert all(seconds > 0 for seconds in spent.values())
    assert not list(tmp_path.iterdir())
