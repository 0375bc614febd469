"""Images that are there already, imported or surrogates, in the place of drawn ones."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffcore.data.images import fit, hash_tree, read_image
from diffcore.data.splits import Split
from diffcore.generation import substitutes as surrogates
from diffcore.generation.draw import GeneratedSet, fill_shards
from diffcore.generation.imports import plan_import
from diffcore.params import GenerationParams, StudyParams
from diffcore.prompts.plan import PLAN_COLUMNS
from diffcore.store import digest


@dataclass(frozen=True)
class OtherImages:
    """Counterparts that need no text-to-image model."""

    plan: pd.DataFrame  # N rows with `PLAN_COLUMNS`
    made_by: dict[str, str]  # model; model_hash, which tells the same plan with other pixels apart
    # Reads (H, W, 3) uint8, of any size, by place in the plan.
    image_of: Callable[[int], np.ndarray]
    truth: pd.DataFrame | None = None  # which are wrong, if it is known, as of `evaluate.judge`

    def bring_in(
        self, out_dir: str | Path, settings: GenerationParams,
        encoder: Callable[[], Any] | None = None,
    ) -> GeneratedSet:  # fmt: skip
        """Fit all images to the size in use and put them into shards, where they are not yet."""
        size = {"height": settings.image_size, "width": settings.image_size}
        wanted = self.plan.assign(**size, **self.made_by, num_inference_steps=0, guidance_scale=0.0)

        def fitted(rows: pd.DataFrame) -> Iterator[np.ndarray]:
            return (fit(self.image_of(place), **size) for place in rows.index)

        return fill_shards(wanted, fitted, out_dir, settings.shard_size, "bring in", encoder)

    def judge(self, metadata: pd.DataFrame) -> pd.DataFrame:
        """Tell which of these images are wrong: a row an image, in order."""
        return self.truth.set_index("sample_id").loc[metadata["sample_id"]].reset_index()


def plan_others(
    params: StudyParams, sources: pd.DataFrame, spare: Split | None = None
) -> OtherImages:
    """Plan what stands in for drawn images: imports, or surrogates out of spare photographs."""
    generation, columns = params.generation, list(PLAN_COLUMNS)
    if generation.pipeline.kind == "import":
        root = Path(generation.pipeline.location)
        plan = plan_import(root, sources, params.seed)
        files = plan["file"].tolist()
        made_by = {"model": "imported", "model_hash": hash_tree(root, files)}
        return OtherImages(plan[columns], made_by, lambda place: read_image(root / files[place]))
    share = generation.generated_share
    plan = surrogates.plan_surrogates(sources, spare, generated_share=share, seed=params.seed)
    places = pd.Index(spare.metadata["source_id"]).get_indexer(plan["photograph"])
    seeds, truth = plan["seed"].tolist(), surrogates.judge_surrogates(plan)
    made_of = digest(surrogates.TRANSFORM_HASH, spare.digest)  # other pixels, other surrogates
    made_by = {"model": "surrogate photographs", "model_hash": made_of}

    def image_of(place: int) -> np.ndarray:
        return surrogates.transform(spare.images[int(places[place])], seeds[place])

    return OtherImages(plan[columns], made_by, image_of, truth)
