"""A study: one profile opened, its parts made when first asked for, and kept on disk.

A notebook opens a `Study` and asks it for images, decisions and classifiers. The packages beside
this file compute them. Only this file knows folders; it holds no mathematics.

    runs/<profile>/            generated shards, embeddings, decisions, classifiers: re-used
    runs/<profile>/report/     one folder per notebook: figures, tables, metrics.json, times.json

The text-to-image model is loaded only where an image is missing.
"""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from diffcore import checks, sweeps
from diffcore.data.datasets import find_dataset, load_split
from diffcore.data.generated import SETTING_COLUMNS, GeneratedSet
from diffcore.data.pairs import PairedDataset
from diffcore.data.splits import Split
from diffcore.filtering import rules
from diffcore.filtering.image_filter import ImageFilter
from diffcore.generation.draw import Sampler, generate, in_batches
from diffcore.generation.external import ExternalImages, plan_external
from diffcore.generation.pipelines import LazyPipeline
from diffcore.generation.restyle import plan_restyled, restyle_images
from diffcore.params import StudyParams, UserError, change_params, load_params, project_root
from diffcore.processes import end_with
from diffcore.prompts.plan import PLAN_COLUMNS, plan_generation
from diffcore.prompts.prompt_set import PromptSet, choose_prompt_set
from diffcore.report.results import Report
from diffcore.store import digest, read_kept, written_whole
from diffcore.training.runs import Run, train_runs

_APART = 1000  # between the seeds of two replicates: more than trainings are made in one


class FilterError(UserError, ValueError):
    """A filter that lets no image through, so that there is nothing to mix."""


class Study:
    """One notebook's view of a study: its parameters, its parts, and the report it writes.

    Attributes:
        params: the resolved parameters.
        run_dir: intermediate data that later notebooks and later runs re-use.
        report: where results for people go.
        image_filter: encoder, rule and threshold of the filter.
    """

    def __init__(self, params: StudyParams, run_dir: Path, report_dir: Path | None = None):
        self.params, self.run_dir = params, run_dir
        self.report = Report(report_dir or run_dir / "lab")
        self.image_filter = ImageFilter(params.filtering, self._training, run_dir / "embeddings")
        self._replicates: dict[int, Study] = {}

    @classmethod
    def open(
        cls, notebook: str, profile: str, overrides: Mapping[str, Any] | None = None
    ) -> "Study":
        """Check the parameters, print and save what the results rest on, and open the study.

        Args:
            notebook: file name of the notebook, without suffix.
            profile: name of a profile, or path of a YAML file.
            overrides: parameters that differ from the profile's.

        Raises:
            UserError: for a parameter that is not legal, and as `diffcore.checks.require`.
        """
        params, run_dir = check_study(profile, overrides)
        # `diffcore study` sets the folder of the report. A notebook that is open in an editor
        # writes elsewhere and leaves that report alone.
        report_dir = Path(os.environ.get("DIFFCORE_REPORT") or run_dir / "lab" / notebook)
        if "DIFFCORE_REPORT" in os.environ:
            end_with(os.getppid())
        study = cls(params, run_dir, report_dir)
        study.report.begin(params, checks.environment())
        return study

    def has(self, capability: str) -> bool:
        """Whether this study has something, of `diffcore.checks.CAPABILITIES`."""
        return capability in checks.capabilities(self.params)

    def _need(self, capability: str) -> None:
        if not self.has(capability):
            raise checks.CapabilityError(capability)

    # ------------------------------------------------------------------------------------ the data
    @cached_property
    def train(self) -> Split:
        """The real training images."""
        return load_split(self.params, "train", self.run_dir)

    def _training(self) -> Split:
        return self.train

    @cached_property
    def tests(self) -> dict[str, Split]:
        """Test sets by the names that results go by, the hardest last."""
        names = find_dataset(self.params.data.dataset).tests
        return {name: load_split(self.params, split, self.run_dir) for name, split in names.items()}

    # ---------------------------------------------------------------------------------- generation
    @cached_property
    def prompt_set(self) -> PromptSet:
        """The prompt set, with the parts that the parameters replace."""
        return choose_prompt_set(self.params.prompts)

    @cached_property
    def _pipeline(self) -> LazyPipeline:
        self._need("pipeline")
        return LazyPipeline(self.params.generation.pipeline)

    @cached_property
    def _external(self) -> ExternalImages:
        """Images that exist already: imported ones, or substitutes."""
        spare = None
        if self.has("substitutes"):
            spare = load_split(self.params, "spare", self.run_dir)
        return plan_external(self.params, self.train.metadata, spare)

    @cached_property
    def plan(self) -> pd.DataFrame:
        """What is asked of the model, one row per image."""
        return self._plan(0)

    def _plan(self, attempt: int) -> pd.DataFrame:
        """Plan all images; a higher attempt plans replacements."""
        if not self.has("pipeline"):  # images that exist already have no replacements
            return self._external.plan.head(None if attempt == 0 else 0)
        share, seed = self.params.generation.generated_share, self.params.seed
        return plan_generation(
            self.train.metadata, self.prompt_set, generated_share=share, seed=seed, attempt=attempt
        )

    def draw(self, plan: pd.DataFrame, progress: bool = True, **changes: float) -> GeneratedSet:
        """Draw a plan at the study's settings, some of them changed; done once and kept.

        Args:
            plan: of `diffcore.prompts.plan_generation`, or a part of the study's plan.
            changes: settings of the sampler, like ``guidance_scale=1.0``.
        """
        folder, generation = self.run_dir / "generation", self.params.generation
        if not self.has("pipeline"):
            images = self._external.bring_in(folder, generation, self._encoder)
            order = pd.Index(images.metadata["sample_id"]).get_indexer(plan["sample_id"])
            return images.take(order)
        settings = generation.sampler | changes
        pipeline, encoder = self._pipeline, self._encoder
        return generate(plan, pipeline, folder, **settings, progress=progress, encoder=encoder)

    def _encoder(self) -> Any:
        return self.image_filter.encoder

    @cached_property
    def generated(self) -> GeneratedSet:
        """Every image of the plan, before any filter."""
        return self.draw(self.plan)

    def restyle(
        self, plan: pd.DataFrame | None = None, params: StudyParams | None = None
    ) -> GeneratedSet:
        """Restyle training images for DiffuseMix: all, or a part of a plan, by some parameters."""
        params = params or self.params
        plan = plan_restyled(self.train.metadata, params) if plan is None else plan
        settings = params.generation.sampler | {"strength": params.mixing.edit_strength}
        return restyle_images(plan, self.train, self._pipeline, self.run_dir / "edits", **settings)

    def replicate(self, number: int) -> "Study":
        """Return the study on another training set, with its own images and tests; 0 is this one.

        It shares the folders: whatever is kept there lies under what it rests on.
        """
        if number == 0:
            return self
        if number not in self._replicates:
            params = change_params(self.params, {"seed": self.params.seed + _APART * number})
            self._replicates[number] = Study(params, self.run_dir, self.report.report_dir)
        return self._replicates[number]

    def judge(self, generated: GeneratedSet | None = None) -> pd.DataFrame:
        """Return which images are wrong, by default of `generated`: one row per image."""
        self._need("truth")
        if generated is None:
            return self._truth
        if self.has("substitutes"):
            return self._external.judge(generated.metadata)
        dataset = find_dataset(self.params.data.dataset)
        return dataset.judge(generated.metadata, generated.images[:], self.prompt_set)

    @cached_property
    def _truth(self) -> pd.DataFrame:
        return self.judge(self.generated)

    # ---------------------------------------------------------------------------------- filtration
    @cached_property
    def decisions(self) -> pd.DataFrame:
        """Score and decision on every image drawn, replacements of rejected ones included."""
        path = self.run_dir / "decisions" / f"{self._decisions_key}.parquet"
        kept = read_kept(path, pd.read_parquet)
        if kept is None:
            kept = decide(self, self.plan)
            with written_whole(path) as aside, aside.open("wb") as file:
                kept.to_parquet(file, index=False)
        return kept

    @property
    def _decisions_key(self) -> str:
        """Digest of everything that decides about the decisions."""
        model = self._pipeline.digest if self.has("pipeline") else self._external.made_by
        sampler = Sampler(**self.params.generation.sampler).pixels
        settings = self.params.filtering.model_dump(exclude={"encoder"})
        encoder = self.image_filter.encoder.model_hash
        return digest(self.plan.to_json(), sampler, model, settings, encoder, self.train.digest)

    @cached_property
    def accepted(self) -> GeneratedSet:
        """The generated images that the filter let through, replacements included."""
        passed = self.decisions.loc[self.decisions["accepted"], list(PLAN_COLUMNS)]
        if passed.empty:  # else all methods that mix would be the same
            best, threshold = self.decisions["similarity"].max(), self.image_filter.threshold
            raise FilterError(
                f"the filter accepted none of {len(self.decisions):,} images: the most similar has "
                f"{best:.3f}, and the threshold is {threshold:.3f}; lower filtering.threshold"
            )
        return self.draw(passed.reset_index(drop=True))

    # ------------------------------------------------------------------------- mixing and training
    def pair(self, generated: GeneratedSet, train: Split | None = None) -> PairedDataset:
        """Pair training images with generated ones, each with those drawn for it."""
        keeps_images = find_dataset(self.params.data.dataset).keeps_images
        folder = None if keeps_images else self.run_dir / "pixels"
        return PairedDataset(self.train if train is None else train, generated, cache_dir=folder)

    @cached_property
    def pairs(self) -> PairedDataset:
        """Training images with the generated images that the filter accepted."""
        return self.pair(self.accepted)

    def train_classifiers(
        self, runs: Sequence[Run] | None = None, describe: str = "main table"
    ) -> pd.DataFrame:
        """Train what is missing of planned runs: one row per run, its accuracies in columns.

        By default every method of the study on its own images, from all seeds.
        """
        runs = sweeps.plan_methods(self) if runs is None else runs
        return train_runs(runs, self.run_dir / "training", describe)


def check_study(
    profile: str, overrides: Mapping[str, Any] | None = None
) -> tuple[StudyParams, Path]:
    """Return the parameters of a study and the folder of its data, after `checks.require`."""
    params = load_params(profile, overrides)
    run_dir = project_root() / "runs" / params.profile
    checks.require(params, run_dir)
    return params, run_dir


def decide(study: Study, plan: pd.DataFrame) -> pd.DataFrame:
    """Draw, score and decide on a part of a study's plan, and draw again what is rejected.

    It goes range by range, so that a part decides, and draws, as the whole does.
    """
    study.draw(plan)  # under one progress bar
    ranges = [*in_batches(plan, study.params.generation.shard_size)]
    bar = tqdm(ranges, "filter", unit="range", disable=len(ranges) == 1)
    decided = [_decide_range(study, rows) for rows in bar]
    return pd.concat(decided).sort_values("attempt", kind="stable", ignore_index=True)


def _decide_range(study: Study, plan: pd.DataFrame) -> pd.DataFrame:
    settings, image_filter = study.params.filtering, study.image_filter

    def draw_and_score(plan: pd.DataFrame) -> pd.DataFrame:
        drawn = study.draw(plan, progress=False)
        scores = rules.score(image_filter.embed(drawn), image_filter.reference)
        return pd.concat([scores, drawn.metadata[list(SETTING_COLUMNS)]], axis=1)

    return rules.resample(
        plan,
        study._plan,
        draw_and_score,
        rule=settings.rule,
        threshold=image_filter.threshold,
        max_attempts=settings.max_attempts,
    )
