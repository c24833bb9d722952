"""lm-eval's tasks on our engines: its prompts, its scorers, its files; our arithmetic and our digests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.engines.common import install
from harness.errors import ImportedError, MissingNeed, StoreError, nearest
from harness.evals.bridge.adapter import Kept, adapter
from harness.types import Engine

__all__ = ["adapter", "run"]

_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE", "TRANSFORMERS_OFFLINE")


def run(
    engine: Engine,
    tasks: Sequence[str],
    *,
    include: Path | None = None,
    limit: int | None = None,
    out: Path,
    name: str = "engine",
    chat: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Path]:
    """Runs lm-eval ``tasks`` on ``engine`` and returns the samples files, one per task, in ``out/name``.

    The files are lm-eval's own (``--log_samples``, and results_DATE.json beside them), and each row
    has under "harness" the digest of the prompt's tokens and how the answers ended. ``include`` is a
    folder of task files and then the only place they come from; a task file may name Python functions
    beside it, so it is code. ``limit`` takes the first documents. No network; tasks that run a model's
    code are refused by lm-eval. ``chat`` renders the prompts by the model's own template.

    Raises MissingNeed without lm-eval, ImportedError for an unknown task or one that asks for what
    the engine cannot do, EngineError as the engine does.
    """
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise MissingNeed("lm-eval", f"{error.name} cannot be imported", install("lmeval")) from error
    with _offline():
        from lm_eval.evaluator import evaluate
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=None if include is None else str(include), include_defaults=include is None)
        unknown = [task for task in tasks if task not in manager.all_tasks]
        if unknown or not tasks:
            raise ImportedError(
                f"no task {', '.join(map(repr, unknown)) or 'named'} in lm-eval; {nearest((unknown or [''])[0], manager.all_tasks[:200])}"
            )
        loaded = manager.load(list(tasks))
        for task in loaded["tasks"].values():
            if task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
            task.set_fewshot_seed(seed=1234)  # lm-eval's own default
        model = adapter(engine, greedy={key for key, task in loaded["tasks"].items() if _reads_greedy(task)}, progress=progress)
        # no bootstrap: errors are computed from the samples by what judges them
        results = evaluate(
            model, loaded, limit=limit, bootstrap_iters=0, log_samples=True, apply_chat_template=chat, fewshot_as_multiturn=chat
        )
    return _write(dict(results), engine, model.kept, out, name)


def _reads_greedy(task: Any) -> bool:
    """Whether a score of the task depends on a continuation being the most likely one."""
    config = task.config
    metrics = {entry.get("metric") for entry in config.metric_list or [] if isinstance(entry, dict)}
    return config.output_type != "multiple_choice" or config.process_results is not None or "exact_match" in metrics


@contextmanager
def _offline() -> Iterator[None]:
    """Nothing is fetched within, also where the libraries that would have read their settings before."""
    import datasets.config
    import huggingface_hub.constants

    before = {key: os.environ.get(key) for key in _OFFLINE}
    flags = [(module, module.HF_HUB_OFFLINE) for module in (datasets.config, huggingface_hub.constants)]
    os.environ.update(dict.fromkeys(_OFFLINE, "1"))
    for module, _ in flags:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, flag in flags:
            module.HF_HUB_OFFLINE = flag
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})


def _write(results: dict[str, Any], engine: Engine, kept: Mapping[tuple[str, int], Kept], out: Path, name: str) -> list[Path]:
    """By lm-eval's own writer, which only logs what goes wrong: so what should be there is looked for."""
    from lm_eval import __version__
    from lm_eval.loggers import EvaluationTracker

    samples = results.pop("samples")
    for task, rows in samples.items():
        for row in rows:
            row["harness"] = kept.get((task, row["doc_id"]), Kept()).record()
    tracker = EvaluationTracker(output_path=str(out))
    tracker.general_config_tracker.log_experiment_args("harness", {"engine": name}, None, None, False)
    results |= {
        "harness": dict(engine.describe()),
        "lm_eval_version": __version__,
        "config": {"model": "harness", "model_args": {"engine": name}},
    }
    tracker.save_results_aggregated(results, samples)
    for task, rows in samples.items():
        tracker.save_results_samples(task, rows)
    folder = out / tracker.general_config_tracker.model_name_sanitized
    written = [folder / f"samples_{task}_{getattr(tracker, 'date_id', '')}.jsonl" for task in samples]
    lost = [file.name for file in written if not file.is_file()]
    if lost:
        raise StoreError(f"{folder}: lm-eval could not write {', '.join(lost)}; is the folder writable, the disk full?")
    return written
