"""Scale: memory does not grow with the images drawn, and a long plan is indexed in seconds."""

import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT

from diffcore import store
from diffcore.generation.draw import fill_shards
from diffcore.params import load_params
from diffcore.prompts.plan import plan_generation
from diffcore.prompts.prompt_set import load_prompt_set

pytestmark = pytest.mark.slow

DRAW = """
import psutil, sys
from test_scale import PARAMS, make_plan
from diffcore.filtering.encoders import load_encoder
from diffcore.generation import generate, load_pipeline

pipeline = load_pipeline(PARAMS.generation.pipeline)
encoder = load_encoder(PARAMS.filtering.encoder, sys.argv[1])
tiny = {"guidance_scale": 1.0, "num_inference_steps": 1, "height": 16, "width": 16}
for count in (500, 3_000):
    found = generate(make_plan(count), pipeline, sys.argv[1], **tiny, batch_size=64,
                     progress=False, encoder=lambda: encoder)
    assert len(found.embeddings) == len(found) == count
    print(psutil.Process().memory_info().rss // 2**20)
"""
PARAMS = load_params("smoke")


def make_plan(count):
    ids = [f"train-{place:06d}" for place in range(count)]
    sources = pd.DataFrame({"source_id": ids, "class_name": "blue jay"})
    prompt_set = load_prompt_set(PARAMS.prompts.domain)
    return plan_generation(sources, prompt_set, generated_share=1, seed=0)


def test_memory_does_not_grow_with_the_images_drawn(tmp_path):
    code = [sys.executable, "-c", DRAW, str(tmp_path)]
    path = os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])
    env = os.environ | {"PYTHONPATH": path}
    run = subprocess.run(code, cwd=PROJECT, env=env, check=True, capture_output=True, text=True)
    few, many = map(int, run.stdout.split())
    # Of noise there are 20 MB; the inputs of the encoder alone, if kept, would be 120.
    assert many < few + 60, f"{few} MB after 500 images, {many} MB after 3,000"


def test_a_long_plan_is_indexed_in_seconds(tmp_path, monkeypatch):
    plan = make_plan(20_000)
    settings = {"num_inference_steps": 1, "guidance_scale": 1.0, "height": 8, "width": 8}
    wanted = plan.assign(model="m", model_hash="h", **settings)
    monkeypatch.setattr(store, "encode_png", lambda _: b"")  # which is not what is timed
    black = np.zeros((8, 8, 3), np.uint8)
    fill_shards(wanted, lambda rows: [black] * len(rows), tmp_path, 256)
    store._read_metadata.cache_clear()  # as another process comes to it
    begun = time.process_time()
    found = fill_shards(wanted, None, tmp_path, 256)
    assert time.process_time() - begun < 3  # 100,000 take 2.4
    assert found.metadata["sample_id"].tolist() == plan["sample_id"].tolist()
