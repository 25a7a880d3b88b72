"""`crossguard demo`: the recipes that come with the package, trained, attacked and reported."""

from __future__ import annotations

import multiprocessing
import os
import queue
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import typer

from crossguard.cli.console import guarded, results, say
from crossguard.cli.progress import Bars, Report, of_evaluation, of_training
from crossguard.cli.tables import summary_table
from crossguard.core.errors import RunError
from crossguard.core.memory import keep_freed_memory

# In the order of the page; the slow ones are started first.
MODELS = (
    "rgb-standard",
    "skeleton-standard",
    "concat-standard",
    "skeleton-adversarial",
    "concat-adversarial",
    "amr-adversarial",
)
QUICK = (
    "data.train=96",
    "data.validation=24",
    "data.test=24",
    "data.size=16",
    "train.epochs=1",
    "train.validation_samples=16",
    "evaluate.protocol={name: quick, steps: 2, curve_steps: 1, samples: 16, check_samples: 4, clips: 2, max_scale: 4}",
)


@guarded
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the runs and the page.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of training and attacks.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny: seconds, figures without worth.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Models at once; default: one a core, at most six.")] = None,
) -> None:
    """Train six small RGB-skeleton models on generated data, attack them, and write the page that compares them.

        crossguard demo

    Minutes on two cores. What is finished is reused when the command is given again. The last line is the page's path.
    """
    from crossguard.recipe import load, load_splits
    from crossguard.report import report

    settings = [f"seed={seed}", *(QUICK if quick else ())]
    folder = resources.files("crossguard") / "recipes" / "demo"
    with resources.as_file(folder) as recipes:
        files = {name: recipes / f"{name}.yaml" for name in MODELS}
        checked = {name: load(file, settings) for name, file in files.items()}
        started = time.monotonic()
        say("data …")
        load_splits(checked[MODELS[0]])  # written to the cache once, before the models ask for it
        say(f"data: {time.monotonic() - started:.0f} s")
        _all(files, settings, out, jobs or min(len(MODELS), os.cpu_count() or 1))
    page = report([out / name for name in MODELS], out / "page.html", title="Robustness of RGB-skeleton models")
    from crossguard.evaluation import Record

    results.print(summary_table([Record.load(out / name) for name in MODELS]))
    say(f"{time.monotonic() - started:.0f} s in all; the page is one file, open it in a browser:")
    results.print(str(page.resolve()), soft_wrap=True)


def _all(files: dict[str, Path], settings: Sequence[str], out: Path, jobs: int) -> None:
    """Train and attack every model, `jobs` at once: small nets gain little from threads, much from processes."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, Bars() as bars:
        news: Any = manager.Queue()
        with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(news,)) as pool:
            running = [pool.submit(_job, file, list(settings), out / name) for name, file in reversed(files.items())]
            try:
                _follow(running, news, bars)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _follow(running: list[Future[None]], news: Any, bars: Bars) -> None:
    """Show what the processes say until all are done; raises the first error of any."""
    while True:
        done = [future for future in running if future.done()]
        for future in done:
            try:
                future.result()
            except BrokenProcessPool as error:
                raise RunError(
                    "a process was killed, most likely for lack of memory; what is finished is kept. "
                    "Run it again with one model at a time: crossguard demo --jobs 1"
                ) from error
        try:
            while True:
                bars.show(*news.get(timeout=0.1))
        except queue.Empty:
            if len(done) == len(running):
                return


_news: Any = None


def _begin(news: Any) -> None:
    """Set up a process: one thread, so that models side by side do not fight over cores."""
    global _news  # noqa: PLW0603 - an initializer has no other way to hand it on
    import torch

    torch.set_num_threads(1)
    keep_freed_memory()
    _news = news


def _job(file: Path, settings: list[str], folder: Path) -> None:
    """One model: what `crossguard train` and `crossguard evaluate` do."""
    from crossguard.recipe import evaluate_run, load, load_splits, train_run

    recipe = load(file, settings)
    report: Report = _Throttled(_news)
    splits = load_splits(recipe)
    train_run(recipe, folder, splits=splits, progress=of_training(f"{recipe.name}: training", report))
    evaluate_run(folder, splits=splits, progress=of_evaluation(f"{recipe.name}: attacks", report))


class _Throttled:
    """Puts progress on a queue, a few times a second at most; ends and notes always."""

    def __init__(self, news: Any) -> None:
        self.news = news
        self.last = 0.0

    def __call__(self, name: str, done: float, total: float, note: str) -> None:
        now = time.monotonic()
        if note or done >= total or now - self.last > 0.3:
            self.last = now
            self.news.put((name, done, total, note))
