"""A study: one profile opened, its parts made once, when first asked for, and kept on disk.

A notebook opens a `Study` and asks it for images, prompts, decisions and classifiers; what the
parts do is in the rooms beside this file. Only this file knows folders; it holds no mathematics.

    runs/<profile>/            generated shards, embeddings, decisions, classifiers: re-used
    runs/<profile>/report/     a folder a notebook: figures, tables, metrics.json, times.json

The text-to-image model is loaded only where an image is missing.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from diffcore import checks, sweeps
from diffcore.data.pairs import PairedDataset
from diffcore.data.splits import Split, load_split, test_splits
from diffcore.filtering import rules
from diffcore.filtering.encoders import Encoder, load_encoder
from diffcore.generation import external as others
from diffcore.generation.draw import SETTING_COLUMNS, GeneratedSet, generate, in_batches
from diffcore.generation.edit import edit_images, plan_edits
from diffcore.generation.pipelines import LazyPipeline
from diffcore.measure import filter as measured
from diffcore.measure.image_quality import judge_images
from diffcore.params import StudyParams, UserError, change_params, load_params, project_root
from diffcore.processes import end_with
from diffcore.prompts.plan import PLAN_COLUMNS, plan_generation
from diffcore.prompts.prompt_set import PromptSet, choose_prompt_set
from diffcore.report.results import Report
from diffcore.store import digest, read_kept, written_whole
from diffcore.training.networks import Classifier, load_classifier
from diffcore.training.runs import Run, train_runs

_APART = 1000  # between the seeds of two worlds: more than trainings are made in one


class FilterError(UserError, ValueError):
    """A filter that lets no image through, so that there is nothing to mix."""


class Study(Report):
    """One notebook's view of a study: its parameters, its parts, and where its results go.

    Attributes:
        params: the resolved parameters.
        run_dir: intermediate data that later notebooks and later runs re-use.
        report_dir: results for people.
    """

    def __init__(self, params: StudyParams, run_dir: Path, report_dir: Path):
        super().__init__(report_dir, params.exports)
        self.params, self.run_dir = params, run_dir
        self.seed, self.confidence = params.seed, params.measure.confidence
        self._worlds: dict[int, Study] = {}

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
        params = load_params(profile, overrides)
        checks.require(params)
        run_dir = project_root() / "runs" / params.profile
        # Whoever runs a notebook as a whole says where its report goes; one that is open in an
        # editor leaves that report alone.
        report_dir = Path(os.environ.get("DIFFCORE_REPORT") or run_dir / "lab" / notebook)
        if "DIFFCORE_REPORT" in os.environ:
            end_with(os.getppid())
        study = cls(params, run_dir, report_dir)
        study.begin(params, checks.environment())
        return study

    def has(self, capability: str) -> bool:
        """Whether this study can know something, of `diffcore.checks.CAPABILITIES`."""
        return capability in checks.capabilities(self.params)

    def need(self, capability: str) -> None:
        """Raise CapabilityError unless the study has a capability."""
        if not self.has(capability):
            raise checks.CapabilityError(capability)

    # ------------------------------------------------------------------------------------ the data
    def load_split(self, split: str, **changes: float) -> Split:
        """Load a split, with some of the data's parameters changed, for an experiment."""
        return load_split(self.params, split, self.run_dir, **changes)

    @cached_property
    def train(self) -> Split:
        """The real training images."""
        return self.load_split("train")

    @cached_property
    def tests(self) -> dict[str, Split]:
        """Test sets by the names that results go by, the hardest last."""
        return {name: self.load_split(split) for name, split in test_splits(self.params).items()}

    @property
    def hardest(self) -> str:
        """Name of the hardest test set."""
        return list(self.tests)[-1]

    # ---------------------------------------------------------------------------------- generation
    @cached_property
    def prompt_set(self) -> PromptSet:
        """The prompt set, with the parts that the parameters replace."""
        return choose_prompt_set(self.params.prompts)

    @cached_property
    def pipeline(self) -> LazyPipeline:
        """The text-to-image model, loaded when it first has to draw."""
        self.need("pipeline")
        return LazyPipeline(self.params.generation.pipeline)

    def plan_attempt(self, attempt: int) -> pd.DataFrame:
        """What is asked of the model, a row an image; a higher attempt draws replacements."""
        prompts = self.params.prompts
        if not self.has("pipeline"):  # images that are there already have no replacements
            return self._others.plan if attempt == 0 else self._others.plan.head(0)
        return plan_generation(
            self.train.metadata,
            self.prompt_set,
            generated_share=self.params.generation.generated_share,
            seed=self.seed,
            use_context=prompts.use_context,
            use_negatives=prompts.use_negatives,
            attempt=attempt,
        )

    @cached_property
    def plan(self) -> pd.DataFrame:
        """What is asked of the model, a row an image."""
        return self.plan_attempt(0)

    @cached_property
    def _others(self) -> "others.OtherImages":
        """Images that are there already: imported, or surrogates."""
        spare = self.load_split("spare") if self.has("surrogates") else None
        return others.plan_others(self.params, self.train.metadata, spare)

    def draw(self, plan: pd.DataFrame, progress: bool = True, **changes: float) -> GeneratedSet:
        """Draw a plan at the study's settings, some of them changed; done once and kept.

        Args:
            plan: of `diffcore.prompts.plan_generation`, or a part of the study's own.
            changes: settings of the sampler, like ``guidance_scale=1.0``.
        """
        folder, generation = self.run_dir / "generation", self.params.generation
        if not self.has("pipeline"):
            found = self._others.bring_in(folder, generation, lambda: self.encoder)
            order = pd.Index(found.metadata["sample_id"]).get_indexer(plan["sample_id"])
            return found.take(order)
        sampler, encoder = generation.sampler | changes, lambda: self.encoder
        few = sampler["num_inference_steps"] - 1  # of few steps, one at least is guided
        sampler["unguided_steps"] = min(sampler["unguided_steps"], few)
        return generate(plan, self.pipeline, folder, **sampler, progress=progress, encoder=encoder)

    @cached_property
    def generated(self) -> GeneratedSet:
        """Every image of the plan, before any filter."""
        return self.draw(self.plan)

    @cached_property
    def edits(self) -> GeneratedSet:
        """Training images edited by a style, for DiffuseMix."""
        return self.edit(self.plan_edits(self.params), self.params)

    def plan_edits(self, params: StudyParams) -> pd.DataFrame:
        """What DiffuseMix asks of the model by some parameters, a row an edit."""
        return plan_edits(self.train.metadata, params)

    def edit(self, plan: pd.DataFrame, params: StudyParams) -> GeneratedSet:
        """Edit training images as a part of a plan of edits says; done once and kept."""
        folder, strength = self.run_dir / "edits", params.mixing.edit_strength
        sampler = params.generation.sampler
        return edit_images(plan, self.train, self.pipeline, folder, strength=strength, **sampler)

    @cached_property
    def retrieved(self) -> GeneratedSet:
        """What the generator learned from, found by its captions, in place of what it draws."""
        self.need("paperbirds")
        from paperbirds.retrieve import retrieve  # brings all of the pretraining with it

        found = retrieve(self.accepted.metadata, self.seed)
        return replace(self.accepted, images=found)

    def world(self, number: int) -> "Study":
        """The same study on another training set, with images and tests of its own; 0 is this one.

        It shares the folders: whatever is kept there lies under what it rests on.
        """
        if number == 0:
            return self
        if number not in self._worlds:
            params = change_params(self.params, {"seed": self.seed + _APART * number})
            self._worlds[number] = Study(params, self.run_dir, self.report_dir)
        return self._worlds[number]

    def judge(self, generated: GeneratedSet) -> pd.DataFrame:
        """Tell which images are wrong, where that is known: a row an image."""
        self.need("truth")
        if self.has("surrogates"):
            return self._others.judge(generated.metadata)
        return judge_images(generated.metadata, generated.images[:], self.prompt_set)

    @cached_property
    def truth(self) -> pd.DataFrame:
        """What is right and wrong in `generated`: a row an image."""
        return self.judge(self.generated)

    # ---------------------------------------------------------------------------------- filtration
    @cached_property
    def encoder(self) -> Encoder:
        """The filter's encoder; its embeddings are kept by content."""
        return load_encoder(self.params.filtering.encoder, self.run_dir / "embeddings")

    @cached_property
    def reference(self) -> pd.DataFrame:
        """The training images as the filter sees them: class_name, source_id, embedding."""
        return self.embed(self.train)

    def embed(self, images: Split | GeneratedSet) -> pd.DataFrame:
        """Embed images for the filter: class_name, source_id, context if known, embedding."""
        return rules.embed(images.metadata, images.images, self.encoder)

    @cached_property
    def threshold(self) -> float:
        """The least similarity that passes: as stated, or calibrated on real pairs."""
        return rules.choose_threshold(self.params.filtering, self.reference)

    def judge_similarity(
        self, generated: GeneratedSet, train: Split | None = None
    ) -> tuple[np.ndarray, float]:
        """Similarity of generated images to real ones (M,), and the threshold that these set."""
        settings = self.params.filtering
        reference = self.reference if train is None else self.embed(train)
        similarity = rules.cosine_to_reference(self.embed(generated), reference, settings.rule)
        return similarity, rules.choose_threshold(settings, reference)

    def filter_by_all(self, generated: GeneratedSet) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """What each way of filtering keeps of M images, arm -> (M,) bool, and which are wrong.

        Arms: `diffcore.measure.filter.arms`.
        """
        settings, wrong = self.params.filtering, self.judge(generated)["wrong"].to_numpy()
        texts = measured.class_texts(self.encoder, self.prompt_set, self.train.classes)
        scores = measured.similarities(self.embed(generated), self.reference, texts)
        limits = measured.thresholds(self.reference, texts, settings.quantile)
        limits[settings.rule] = self.threshold
        return measured.arms(scores, limits, settings.rule, wrong, self.seed), wrong

    @cached_property
    def decisions(self) -> pd.DataFrame:
        """Score and decision on every image drawn, replacements of rejected ones included."""
        path = self.run_dir / "decisions" / f"{self.decisions_key}.parquet"
        kept = read_kept(path, pd.read_parquet)
        if kept is None:
            kept = self.decide(self.plan)
            with written_whole(path) as aside, aside.open("wb") as file:
                kept.to_parquet(file, index=False)
        return kept

    @property
    def decisions_key(self) -> str:
        """Digest of all that decides about the decisions."""
        model = self.pipeline.digest if self.has("pipeline") else self._others.made_by
        asked, settings = self.params.generation.sampler, self.params.filtering
        passing = {"batch_size", "shard_size"}
        # Steps without guidance count where there are any: what is kept from before them stays.
        asked = {name: value for name, value in asked.items() if value and name not in passing}
        decides = self.plan.to_json(), asked, model, settings.model_dump(exclude={"encoder"})
        return digest(*decides, self.encoder.model_hash, self.train.digest)

    def decide(self, plan: pd.DataFrame) -> pd.DataFrame:
        """Draw, score and decide on a part of the plan, and draw again what is rejected.

        Range by range, so that a part decides, and draws, as the whole does.
        """
        self.draw(plan)  # under one progress bar
        ranges = [*in_batches(plan, self.params.generation.shard_size)]
        bar = tqdm(ranges, "filter", unit="range", disable=len(ranges) == 1)
        decided = [self._decide(rows) for rows in bar]
        return pd.concat(decided).sort_values("attempt", kind="stable", ignore_index=True)

    def _decide(self, plan: pd.DataFrame) -> pd.DataFrame:
        settings = self.params.filtering

        def draw_and_score(plan: pd.DataFrame) -> pd.DataFrame:
            drawn = self.draw(plan, progress=False)
            scores = rules.score(self.embed(drawn), self.reference)
            return pd.concat([scores, drawn.metadata[list(SETTING_COLUMNS)]], axis=1)

        return rules.resample(
            plan,
            self.plan_attempt,
            draw_and_score,
            rule=settings.rule,
            threshold=self.threshold,
            max_attempts=settings.max_attempts,
        )

    @cached_property
    def accepted(self) -> GeneratedSet:
        """The generated images that the filter let through, replacements included."""
        passed = self.decisions.loc[self.decisions["accepted"], list(PLAN_COLUMNS)]
        if passed.empty:  # or all methods that mix would be the same
            best = self.decisions["similarity"].max()
            raise FilterError(
                f"the filter accepted none of {len(self.decisions):,} images: the most similar has "
                f"{best:.3f}, and the threshold is {self.threshold:.3f}; lower filtering.threshold"
            )
        return self.draw(passed.reset_index(drop=True))

    # ------------------------------------------------------------------------- mixing and training
    def pair(self, generated: GeneratedSet, train: Split | None = None) -> PairedDataset:
        """Pair training images with generated ones, each with those drawn for it."""
        real = self.train if train is None else train
        keep = None if self.params.data.dataset == "paperbirds" else self.run_dir / "pixels"
        return PairedDataset(real, generated, cache_dir=keep)

    @cached_property
    def pairs(self) -> PairedDataset:
        """Training images with the generated images that the filter accepted."""
        return self.pair(self.accepted)

    def train_classifiers(
        self, methods: Sequence[str] | None = None, seeds: int | None = None
    ) -> pd.DataFrame:
        """Train every method from several seeds: a row a run, its accuracies in columns."""
        return self.train_runs(sweeps.plan_main(self, methods, seeds), "main table")

    def sweep(self, axis: str) -> pd.DataFrame:
        """Vary one thing, of `sweep_axes`, and train: a row a run, with the ``point`` it is at."""
        return self.train_runs(sweeps.plan_sweep(self, axis), axis)

    @property
    def sweep_axes(self) -> list[str]:
        """What this study can vary, for `sweep`."""
        return sweeps.axes(self)

    def train_runs(self, runs: Sequence[Run], describe: str = "runs") -> pd.DataFrame:
        """Train what is missing of planned runs: a row a run."""
        return train_runs(runs, self.training_dir, self.params.runs.processes, describe)

    @property
    def training_dir(self) -> Path:
        """Where the results of trainings lie."""
        return self.run_dir / "training"

    def load_classifier(self, weights: str | Path) -> Classifier:
        """Load a trained classifier, ready to predict."""
        return load_classifier(Path(weights), self.params.training, len(self.train.classes))
