"""Scale: memory does not grow with the images drawn, and a long plan is indexed in seconds."""

import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT

from diffcore import store
from diffcore.generation.draw import fill_shards
from diffcore.prompts.prompt_set import load_prompt_set
from diffcore.prompts.plan import plan_generation

pytestmark = pytest.mark.slow

DRAW = """
import numpy as np, pandas as pd, psutil, sys
from diffcore.filtering.encoders import load_encoder
from diffcore.generation import generate
from diffcore.generation.pipelines import load_pipeline
from diffcore.params import load_params
from diffcore.prompts.prompt_set import load_prompt_set
from diffcore.prompts.plan import plan_generation

params = load_params("smoke")
pipeline, encoder = (load_pipeline(params.generation.pipeline),
                     load_encoder(params.filtering.encoder, sys.argv[1]))
sources = pd.DataFrame({"source_id": [f"{n:05d}" for n in range(10_000)], "class_name": "blue jay"})
plan = plan_generation(sources, load_prompt_set("package:paperbirds/prompts.yaml"), generated_share=1, seed=0)
tiny = {"guidance_scale": 1.0, "num_inference_steps": 1, "height": 16, "width": 16}
for count in (1000, 10_000):
    found = generate(plan.head(count), pipeline, sys.argv[1], **tiny, batch_size=128,
                     progress=False, encoder=lambda: encoder)
    assert len(found.embeddings) == len(found) == count
    print(psutil.Process().memory_info().rss // 2**20)
"""


def test_memory_after_ten_thousand_images_is_that_after_a_thousand(tmp_path):
    run = [sys.executable, "-c", DRAW, str(tmp_path)]
    told = subprocess.run(run, cwd=PROJECT, check=True, capture_output=True, text=True)
    few, many = map(int, told.stdout.split())
    assert many < few + 100, f"{few} MB after 1,000 images, {many} MB after 10,000"


def test_a_hundred_thousand_rows_are_indexed_in_ten_seconds(tmp_path):
    names = [f"train-{place:06d}" for place in range(100_000)]
    sources = pd.DataFrame({"source_id": names, "class_name": "blue jay"})
    plan = plan_generation(sources, load_prompt_set("package:paperbirds/prompts.yaml"), generated_share=1, seed=0)
    wanted = plan.assign(model="m", model_hash="h", num_inference_steps=1, guidance_scale=1.0,
                         height=8, width=8)  # fmt: skip
    black = np.zeros((8, 8, 3), np.uint8)
    fill_shards(wanted, lambda rows: [black] * len(rows), tmp_path, 256, None)
    store._read_metadata.cache_clear()  # as another process comes to it
    begun = time.perf_counter()
    found = fill_shards(wanted, None, tmp_path, 256, None)
    assert time.perf_counter() - begun < 10
    assert found.metadata["sample_id"].tolist() == plan["sample_id"].tolist()
