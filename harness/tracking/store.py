"""MLflow's database in a folder: opened offline, written, read back."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import EvidenceError, MissingNeed
from harness.store import digest_file
from harness.tracking.logged import Logged, name_of

__all__ = ["Tracker"]

_BATCH = 1000  # metrics that MLflow takes at once; parameters: a tenth
_MODEL = 200  # characters of a model's name
# Read by MLflow at import and at use: nothing leaves this machine, and nothing is said on the way.
_QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "MLFLOW_LOGGING_LEVEL": "ERROR"}


class Tracker:
    """A tracking store and registry in ``folder``: ``mlflow.db`` and ``artifacts``. See it with ``mlflow ui``.

    MissingNeed where MLflow is not installed; EvidenceError where the folder cannot be written or holds another's database.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        with _offline():
            client = _client()
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                uri = f"sqlite:///{self.folder / 'mlflow.db'}"
                self._mlflow = client(tracking_uri=uri, registry_uri=uri)
                self._mlflow.search_experiments(max_results=1)  # makes the tables, or finds that they cannot be
            except Exception as error:  # whatever SQLAlchemy, Alembic and MLflow raise of a file that is no database of theirs
                raise EvidenceError(
                    f"{self.folder}: cannot be used for MLflow's database ({_first(error)}); name another folder"
                ) from error

    def log(self, run: Path, told: Logged, *, experiment: str, name: str) -> str:
        """Logs all of it as one finished run; returns MLflow's id of it. A run that could not be logged whole is marked failed."""
        with _offline(), _named(self.folder):
            run_id = str(self._mlflow.create_run(self._experiment(experiment), run_name=name).info.run_id)
            try:
                self._write(run, run_id, told)
            except BaseException:
                self._mlflow.set_terminated(run_id, "FAILED")
                raise
            self._mlflow.set_terminated(run_id, "FINISHED")
        return run_id

    def _write(self, run: Path, run_id: str, told: Logged) -> None:
        from mlflow.entities import Metric, Param

        params = [Param(key, value) for key, value in sorted(told.params.items())]
        for some in _batches(params, _BATCH // 10):
            self._mlflow.log_batch(run_id, params=some)
        metrics = [Metric(key, value, 0, step) for key, series in sorted(told.metrics.items()) for step, value in enumerate(series)]
        for some in _batches(metrics, _BATCH):
            self._mlflow.log_batch(run_id, metrics=some)
        with tempfile.TemporaryDirectory(dir=self.folder) as place:  # what is logged is what was counted, and nothing beside it
            for file in told.files:
                target = Path(place) / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(run / file, target)
            self._mlflow.log_artifacts(run_id, place)

    def read(self, run_id: str) -> Logged:
        """What the store holds of a run: parameters, each metric's whole history, the digest of each file as it is given out."""
        with _offline(), _named(self.folder):
            data = self._mlflow.get_run(run_id).data
            series = {key: self._series(run_id, key) for key in data.metrics}
            with tempfile.TemporaryDirectory(dir=self.folder) as place:
                there = Path(self._mlflow.download_artifacts(run_id, "", place))
                files = {p.relative_to(there).as_posix(): digest_file(p) for p in sorted(there.rglob("*")) if p.is_file()}
        return Logged(dict(data.params), series, files)

    def _series(self, run_id: str, key: str) -> tuple[float, ...]:
        """By step; where a step was logged twice the last counts, as in MLflow."""
        history = self._mlflow.get_metric_history(run_id, key)
        return tuple({m.step: m.value for m in sorted(history, key=lambda m: (m.step, m.timestamp))}.values())

    def overwrite(self, run_id: str, metric: str, value: float) -> None:
        """Logs a metric once more, later: what MLflow shows from then on. To plant a difference."""
        with _offline(), _named(self.folder):
            self._mlflow.log_metric(run_id, metric, value, timestamp=1, step=0)

    def status(self, run_id: str) -> str:
        """FINISHED, FAILED, RUNNING ..., as MLflow says."""
        with _offline(), _named(self.folder):
            return str(self._mlflow.get_run(run_id).info.status)

    # --- the registry ---------------------------------------------------------------------------

    def register(self, model: str, run_id: str, tags: Mapping[str, str]) -> str:
        """A new version of a model, with these tags; its number."""
        called = _model(model)
        with _offline(), _named(self.folder):
            if not any(found.name == called for found in self._mlflow.search_registered_models()):
                self._mlflow.create_registered_model(called)
            source = self._mlflow.get_run(run_id).info.artifact_uri
            return str(self._mlflow.create_model_version(called, source, run_id=run_id, tags=dict(tags)).version)

    def alias(self, model: str, alias: str, version: str) -> None:
        """Gives the alias to this version, and to no other one."""
        called = _model(model)
        with _offline(), _named(self.folder):
            self._mlflow.set_registered_model_alias(called, alias, version)

    def aliased(self, model: str, alias: str) -> tuple[str, dict[str, str]] | None:
        """The version that has the alias, and its tags; None where none has it."""
        called = _model(model)
        with _offline(), _named(self.folder):
            known = {found.name: dict(found.aliases) for found in self._mlflow.search_registered_models()}
            version = known.get(called, {}).get(alias)
            if version is None:
                return None
            return str(version), dict(self._mlflow.get_model_version(called, str(version)).tags)

    def close(self) -> None:
        """Closes the database."""
        with contextlib.suppress(AttributeError):
            self._mlflow._tracking_client.store.engine.dispose()
            self._mlflow._get_registry_client().store.engine.dispose()

    def _experiment(self, name: str) -> str:
        found = self._mlflow.get_experiment_by_name(name)
        where = (self.folder / "artifacts").as_uri()
        return str(found.experiment_id if found else self._mlflow.create_experiment(name, artifact_location=where))


def _client() -> Any:
    try:
        import alembic  # noqa: F401
        import sqlalchemy  # noqa: F401
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise MissingNeed("mlflow", f"{error.name or 'mlflow'} is not installed", "python -m harness doctor --install track") from None
    logging.getLogger("mlflow").setLevel(logging.ERROR)  # it sets its own when it is imported
    return MlflowClient


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """MLflow without telemetry, without its remarks on the way, without warnings of what it builds on."""
    before = {name: os.environ.get(name) for name in _QUIET}
    os.environ.update(_QUIET)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def _named(folder: Path) -> Iterator[None]:
    """An error of MLflow's, or a full disk, as ours: one line that names the folder."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise EvidenceError(f"{folder}: MLflow could not do it ({_first(error)})") from error


def _model(name: str) -> str:
    """The name of a registered model: neither slash nor colon is taken there."""
    return re.sub(r"[/:]", "-", name_of(name))[:_MODEL]


def _first(error: BaseException) -> str:
    return re.sub(r"\s+", " ", str(error) or type(error).__name__)[:200]


def _batches(of: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (of[at : at + size] for at in range(0, len(of), size))
