"""The data card of a set of generated images: what a reader has to know before using it.

In the form of the Hugging Face hub: a YAML header, and Markdown from the template beside this file.
Every number of it is computed from the images and their records.
"""

from pathlib import Path

import pandas as pd
from huggingface_hub import DatasetCard, DatasetCardData

from diffcore.params import StudyParams
from diffcore.prompts.prompt_set import PromptSet


def data_card(
    params: StudyParams, prompt_set: PromptSet, generated: pd.DataFrame, decisions: pd.DataFrame,
    copies: pd.DataFrame, wrong: float | None = None,
) -> DatasetCard:  # fmt: skip
    """Write the card of a study's generated images; its `save` and `push_to_hub` are the hub's.

    Takes their metadata, the filter's decisions on all that was drawn, near-copies of `copy_rates`
    and the share of images that are wrong, None if it is not known. Of the prompts nothing is said
    where no model drew.
    """
    known = copies["images"].str.startswith("copy: ")
    searched = copies[known & (copies["space"] == "either")].sort_values("value", kind="stable")
    header = DatasetCardData(
        pretty_name=f"generated counterparts, profile {params.profile}",
        license="mit" if params.generation.pipeline.kind == "paperbirds" else "other",
        task_categories=["image-classification"], tags=["synthetic"],
        annotations_creators=["machine-generated"],
    )  # fmt: skip
    return DatasetCard.from_template(
        header, template_path=str(Path(__file__).with_name("data_card.md.j2")),
        params=params, prompt_set=prompt_set, generated=generated, decisions=decisions, wrong=wrong,
        copies=copies[~known].to_dict("records"), missed=searched.iloc[0].to_dict(),
    )  # fmt: skip
