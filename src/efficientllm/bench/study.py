"""Runs a plan: what is stored already is skipped, the rest is measured, judged and stored, one trial after another."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import efficientllm
from efficientllm.bench.batch import Workers
from efficientllm.bench.ceilings import PATIENCE_S, calibrate, ceilings_of, matmul_peak
from efficientllm.bench.digest import code_digest, package_stamp
from efficientllm.bench.distinct import distinct_models, read_text
from efficientllm.bench.folders import artifact_folder, checkpoint_folder, forget_checkpoints
from efficientllm.bench.forecast import Outlook, not_tried
from efficientllm.bench.inputs import check_inputs
from efficientllm.bench.job import JobFile
from efficientllm.bench.judging import judged
from efficientllm.bench.lock import study_lock
from efficientllm.bench.nodes import FirstNode
from efficientllm.bench.places import Places
from efficientllm.bench.probe import host_threads, probe_environment
from efficientllm.bench.refusals import refusals
from efficientllm.bench.runner import Run, TrialInterrupted
from efficientllm.bench.storing import store
from efficientllm.bench.watcher import Watcher
from efficientllm.devices._contract import Device
from efficientllm.devices.choose import open_device
from efficientllm.errors import DeviceBusy
from efficientllm.meters.external import WallClock, read_meter
from efficientllm.recipes.expand import Plan, expand
from efficientllm.recipes.recipe import Recipe
from efficientllm.recipes.select import reason_of_no_choice
from efficientllm.records.environment import Environment
from efficientllm.records.measurement import Ceilings, Measurement
from efficientllm.records.prediction import MemoryPrediction
from efficientllm.records.trial import Trial
from efficientllm.records.window import Caution
from efficientllm.store.folder import Study


@dataclass
class StudyRun:
    """One call of `run`: the plan, where its results go, and who watches.

    Attributes:
        nodes: the other machines that take part, once they have joined.
        patience_s: how long a calibration waits for others to leave the device.
        external: a wall or BMC meter's file, to bound the systematic error of energy.
        recipe: what the plan was made of, where stages wait for the results of others.
        try_anyway: whether trials that by prediction do not fit are tried all the same.
        measurements: of all trials of the plan, in its order, as far as the run came.
    """

    plan: Plan
    study: Study
    results: Path
    device: Device
    watcher: Watcher
    external: Path | None = None
    recipe: Recipe | None = None
    nodes: FirstNode | None = None
    try_anyway: bool = False
    patience_s: float = PATIENCE_S
    measurements: list[Measurement] = field(default_factory=list)
    _environments: dict[str, Environment] = field(default_factory=dict)
    _ceilings: Ceilings | None = None
    _refused: dict[str, str] = field(default_factory=dict)
    _workers: Workers = field(default_factory=Workers)

    def __post_init__(self) -> None:
        self._outlook = Outlook(self.device.info(), self.cache, tries_anyway=self.try_anyway)

    @property
    def threads(self) -> int:
        """Processor threads of a worker."""
        return host_threads()

    def run(self) -> list[Measurement]:
        """Measure what is missing.

        Raises:
            UserError: the results folder, the corpus or the shape cannot be used; nothing has been measured then.
            KeyboardInterrupt: Ctrl-C; the present trial is stored as interrupted.
        """
        self.study.check_writable()
        self.check_inputs()
        with study_lock(self.study.path), self._workers:
            more = True
            while more:
                self._refused |= self._places.refused(self.missing())
                self._refused |= refusals(self.missing(), self._environments, self.cache)
                self._outlook.look(self.missing(), self._environments)
                self._prepare()
                for index, trial in list(enumerate(self.plan.trials))[len(self.measurements) :]:
                    self.watcher.trial(index, len(self.plan.trials), trial)
                    self._one(trial)
                more = self._choose({measurement.trial.id: measurement for measurement in self.measurements})
        return self.measurements

    def choose_by_stored(self) -> None:
        """Add the trials that earlier runs of the study have decided."""
        more = True
        while more:
            self._find_environments()
            stored = {trial.id: self._stored(trial) for trial in self.plan.trials}
            more = self._choose({key: found for key, found in stored.items() if found is not None})

    def _choose(self, done: dict[str, Measurement]) -> bool:
        """Add to the plan what its results decide; whether there is anything new to run."""
        if self.recipe is None or not self.plan.pending:
            return False
        known, self.plan = len(self.plan.trials), expand(self.recipe, self.device.kind, done)
        return len(self.plan.trials) > known

    def missing(self) -> list[Trial]:
        """Return the trials that are not stored for this environment yet."""
        self._find_environments()
        return [trial for trial in self.plan.trials if self._stored(trial) is None]

    def check_inputs(self) -> None:
        """Refuse texts and questions that cannot judge what is not stored yet: a RecipeError with file and key."""
        check_inputs(self.missing(), self.recipe.file if self.recipe is not None else "recipe")

    def unsupported(self) -> dict[str, str]:
        """Return trial -> reason, in the plan's order, for the trials that nothing can run.

        Raises:
            UserError: a part has no such option, a shape makes no model.
        """
        self._find_environments()
        stored = {trial.id: self._stored(trial) for trial in self.plan.trials}
        asked = [trial for trial in self.plan.trials if stored[trial.id] is None]
        found = refusals(asked, self._environments, self.cache)
        found |= self._places.refused(asked)
        found |= {key: m.reason for key, m in stored.items() if m is not None and m.outcome == "unsupported"}
        for trial in self.plan.trials:
            if trial.parent in found:
                found.setdefault(trial.id, f"no checkpoint to start from: {found[trial.parent]}")
        return {trial.id: found[trial.id] for trial in self.plan.trials if trial.id in found}

    def memory(self) -> dict[str, MemoryPrediction]:
        """Return trial -> what memory it is predicted to take, for the trials that train from scratch."""
        self._find_environments()
        return self._outlook.look(self.plan.trials, self._environments)

    def _prepare(self) -> None:
        """Do what concerns all trials, so that bad input stops the run before anything is measured."""
        if self.external is not None:
            read_meter(self.external)
        for settings in distinct_models(self.plan.trials):
            self.watcher.note(f"text: {settings.corpus.label()}")
            for note in read_text(settings, self.cache):
                self.watcher.note(note)
        if self._ceilings is not None:
            return
        self.watcher.note("calibration of this device")
        protocol = self.plan.trials[0].protocol.name
        try:
            calibration = calibrate(
                self.results,
                self.device,
                self.threads,
                self.watcher.progress,
                protocol=protocol,
                patience_s=self.patience_s,
            )
        except DeviceBusy as busy:  # the study goes on: MFU and MBU will be absent with this reason
            self.watcher.note(str(busy))
        else:
            self._ceilings = ceilings_of(calibration)

    @property
    def cache(self) -> Path:
        """Token files and tokenizers, shared by all studies of a results folder."""
        return self.results / ".cache"

    def _one(self, trial: Trial) -> None:
        stored = self._stored(trial)
        if stored is not None:
            self._end(stored, stored_before=True)
            return
        blocked = self._blocked(trial)
        self._end(blocked or self._measure(trial), stored_before=False, write=True)

    def _end(self, measurement: Measurement, *, stored_before: bool, write: bool = False) -> None:
        if write:
            measurement = store(self.study, measurement)
        forget_checkpoints(self.study, measurement.trial, measurement.environment)
        self.measurements.append(measurement)
        self.watcher.ended(measurement, stored_before=stored_before)

    def _measure(self, trial: Trial) -> Measurement:
        parent = self._trial(trial.parent)
        if parent is not None and not self._artifact(parent).is_dir():
            self.watcher.note(f"making {parent.technique()} again: its checkpoint is gone, its record stays")
            self._run(parent)
            forget_checkpoints(self.study, parent, self._environments[parent.id])
        return self._run(trial)

    def _run(self, trial: Trial) -> Measurement:
        environment, parent = self._environments[trial.id], self._trial(trial.parent)
        taken = any(other.parent == trial.id for other in self.plan.trials)
        if taken:
            shutil.rmtree(self._artifact(trial), ignore_errors=True)
        job = JobFile(
            trial=trial,
            environment=environment.id,
            checkpoints=str(checkpoint_folder(self.study, trial, environment) or ""),
            address=self.device.address,
            addresses=self._places.addresses(trial),
            cache=str(self.cache),
            threads=max(1, self.threads // self._places.local_ranks(trial)),
            artifact=str(self._artifact(trial)) if taken else "",
            parent_artifact=str(self._artifact(parent)) if parent else "",
            matmul_peak_flop_per_s=matmul_peak(self._ceilings, trial),
        )
        others, attempt = self._places.devices(trial)[1:], self._next_id(trial)
        run = Run(job, self.device, environment, attempt, self._ceilings, self.external, others, self.nodes)
        try:
            return judged(self._workers.run_trial(run, self.watcher.progress), self.device)
        except TrialInterrupted as interrupted:
            self._end(interrupted.measurement, stored_before=False, write=True)
            raise KeyboardInterrupt from interrupted

    def _blocked(self, trial: Trial) -> Measurement | None:
        """Return the record of a trial that cannot run: its parts do not go together, or its parent left nothing."""
        if trial.id in self._refused:
            return self._unmeasured(trial, "unsupported", self._refused[trial.id])
        if reason := self._outlook.reason(trial):
            return self._outlook.record(self._unmeasured(trial, "oom", reason))
        if trial.selected is not None and not trial.selected.value:
            return self._unmeasured(trial, trial.selected.outcome, reason_of_no_choice(trial.selected))
        parent = next((m for m in self.measurements if m.trial.id == trial.parent), None)
        if parent is None or parent.outcome in ("ok", "invalid"):
            return None
        reason = f"no checkpoint to start from: {parent.trial.stage} ended as {parent.outcome}: {parent.reason}"
        return self._unmeasured(trial, parent.outcome, reason, not_tried(parent))

    def _unmeasured(self, trial: Trial, outcome: str, reason: str, cautions: tuple[Caution, ...] = ()) -> Measurement:
        return Measurement(
            id=self._next_id(trial),
            trial=trial,
            environment=self._environments[trial.id],
            outcome=outcome,
            reason=reason,
            started_at=WallClock.now().text(),
            software_version=efficientllm.__version__,
            cautions=cautions,
        )

    def _stored(self, trial: Trial) -> Measurement | None:
        return self._outlook.takes(self.study.done(trial.id, self._environments[trial.id].id))

    def _next_id(self, trial: Trial) -> str:
        environment = self._environments[trial.id]
        return f"{trial.id}-{environment.id}-{self.study.next_attempt(trial.id, environment.id)}"

    def _find_environments(self) -> None:
        """Find each trial's environment, parents before those that take their artifacts, as the plan lists them."""
        stamp = package_stamp()
        for trial in self.plan.trials:
            self._environments[trial.id] = self._environment(trial, stamp)

    def _environment(self, trial: Trial, stamp: str) -> Environment:
        parent = self._environments.get(trial.parent)
        digest = code_digest(trial.settings, self.device.kind, parent.code_digest if parent else "", stamp)
        return probe_environment(self.device, digest, self.threads, self._places.others(trial))

    @property
    def _places(self) -> Places:
        return Places(self.device, self.nodes)

    def _trial(self, trial_id: str) -> Trial | None:
        return next((trial for trial in self.plan.trials if trial.id == trial_id), None)

    def _artifact(self, trial: Trial) -> Path:
        return artifact_folder(self.study, trial, self._environments[trial.id])


def open_run(
    recipe: Recipe,
    results: Path,
    watcher: Watcher,
    external: Path | None = None,
    *,
    nodes: FirstNode | None = None,
    try_anyway: bool = False,
) -> StudyRun:
    """Return the run of a recipe on the device that it names, measuring nothing yet.

    Raises:
        UserError: no such device, or a plan that makes no sense.
    """
    device = open_device(recipe.device)
    plan, study = expand(recipe, device.kind), Study(results, recipe.name)
    run = StudyRun(plan, study, results, device, watcher, external, recipe, nodes, try_anyway)
    run.choose_by_stored()
    return run
