"""``mono-quant runs``: the ledger on the command line."""

import argparse
import contextlib
import csv
import dataclasses
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engine import api, choices, identity
from engine.cli.documents import Document, report_document
from engine.cli.running import load
from engine.cli.text import Interruptible, Pausable, layers_table, megabytes, plain, table
from engine.errors import InputError, OutputError
from engine.history import Ledger, runs_folder
from engine.pages import report as report_page
from engine.records.calibration import DataSpec
from engine.records.codec import from_data, to_data
from engine.records.report import LayerReport
from engine.records.run import STATES, RunRecord
from engine.records.trust import Factory
from engine.writers import workspace
from engine.writers.whole import write_text

Answer = tuple[Document | list[Any], str, int]


def add_commands(runs: argparse.ArgumentParser) -> None:
    """``runs`` and what can be done with them."""
    commands = runs.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], Answer], words: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=words, description=words)
        sub.set_defaults(command=run)
        sub.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
        return sub

    listing = command("list", _list, "List runs, newest first.")
    listing.add_argument("words", nargs="*", metavar="WORD", help="in the name, note, tags, recipe, model or data")
    listing.add_argument("--model", metavar="MODEL", help="runs of this model")
    listing.add_argument("--state", action="append", choices=STATES, help="may be given several times")
    listing.add_argument("--starred", action="store_true", help="runs with a star")
    show = command("show", _show, "Show one run: what was asked for, with what, and what came of it, layer by layer.")
    edit = command("edit", _edit, "Name, note, tag or star a run.")
    edit.add_argument("--name", metavar="TEXT")
    edit.add_argument("--note", metavar="TEXT")
    edit.add_argument("--tag", action="append", metavar="T", help="its tags from now on; an empty one takes them all away")
    edit.add_argument("--star", action=argparse.BooleanOptionalAction)
    rerun = command(
        "rerun", _rerun, "Do a run again: the same bytes, as long as the model, the data and the versions are the same."
    )
    rerun.add_argument("-o", "--output", metavar="OUT", required=True)
    rerun.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    rerun.add_argument("--trust", action="store_true", help="run code from the files that the run names")
    resume = command(
        "resume", _resume, "Go on with an unfinished run after its last finished layer: killed, or paused by SIGTERM."
    )
    resume.add_argument("--trust", action="store_true", help="run code from the files that the run names")
    export = command("export", _export, "Write one run with all its layers to a file: JSON, or CSV where its name says so.")
    export.add_argument("-o", "--output", metavar="FILE", required=True)
    delete = command("delete", _delete, "Delete runs with their folders; artifacts elsewhere stay.")
    delete.add_argument("runs", nargs="*", metavar="RUN")
    delete.add_argument("--state", action="append", choices=STATES, help="also all runs in this state")
    for sub in (show, edit, rerun, resume, export):
        sub.add_argument("run", metavar="RUN", help="its id, or the beginning of it")


@contextlib.contextmanager
def _ledger() -> Iterator[Ledger]:
    with Ledger(runs_folder()) as ledger:
        if ledger.set_aside:
            print(
                f"mono-quant: the ledger was damaged and is kept as {ledger.set_aside}; its runs were read anew.", file=sys.stderr
            )
        ledger.take_over()
        yield ledger


def _list(options: argparse.Namespace) -> Answer:
    with _ledger() as ledger:
        found = ledger.find(
            " ".join(options.words), model=options.model or "", states=options.state or (), starred=options.starred
        )
        used = {run.id: ledger.disk_use(run.id) for run in found}
        whole = ledger.disk_use()
    rows = [
        [
            run.id, f"{'* ' if run.starred else ''}{run.number}", _when(run), run.state, run.name, Path(run.model_path).name,
            _db(run), megabytes(used[run.id] + _outside(run)), ", ".join(run.tags), run.note,
        ]
        for run in found
    ]  # fmt: skip
    heads = ["run", "no.", "begun", "state", "name", "model", "dB", "size", "tags", "note"]
    end = f"{len(found)} runs; the folder of runs takes {megabytes(whole)}: {plain(str(runs_folder()))}"
    documents = [_document(run) | {"bytes": used[run.id]} for run in found]
    return {"runs": documents, "folder": str(runs_folder()), "bytes": whole}, f"{table(heads, rows)}\n\n{end}", 0


def _show(options: argparse.Namespace) -> Answer:
    with _ledger() as ledger:
        run = ledger.named(options.run)
        layers, used = _layers(ledger, run), ledger.disk_use(run.id)
    lines = [f"Run {run.number} of {run.model_path}: {run.name}, {run.state} ({run.id})"]
    lines += [f"begun {_when(run)}, {run.seconds:.1f} s on {run.machine}"]
    lines += [", ".join(f"{name} {version}" for name, version in run.versions.items())]
    lines += [f"model {run.model_hash}"] if run.model_hash else []
    lines += [f"data: {run.data} ({run.data_hash})"] if run.data else []
    lines += [f"takes over layers of run {run.parent}"] if run.parent else []
    lines += [f"tags: {', '.join(run.tags)}"] if run.tags else []
    lines += [f"note: {run.note}"] if run.note else []
    lines += [f"failed: {run.message}"] if run.state == "failed" else [run.message] if run.message else []
    lines += [f"artifact: {run.artifact}{'' if os.path.exists(run.artifact) else ' (is not there)'}; folder {megabytes(used)}"]
    text = "\n".join([*map(plain, lines), "", run.recipe.rstrip(), "", layers_table(layers)])
    return _whole(run, layers) | {"bytes": used}, text, 0


def _edit(options: argparse.Namespace) -> Answer:
    with _ledger() as ledger:
        run = ledger.named(options.run)
        if options.name is not None:
            run = ledger.rename(run.id, options.name)
        if options.note is not None:
            run = ledger.annotate(run.id, options.note)
        if options.tag is not None:
            run = ledger.tag(run.id, options.tag)
        if options.star is not None:
            run = ledger.star(run.id, options.star)
    return _document(run), f"Run {run.number}: {plain(run.name)}{' *' if run.starred else ''} [{plain(', '.join(run.tags))}]", 0


def _export(options: argparse.Namespace) -> Answer:
    with _ledger() as ledger:
        run = ledger.named(options.run)
        layers, activities = _layers(ledger, run), ledger.activities(run.id)
    target = Path(options.output)
    if target.exists() and (target.is_dir() or target.suffix not in (".json", ".csv")):
        raise OutputError(f"{target} is there already; name a .json or .csv file.")
    whole = _whole(run, layers) | {"activities": [to_data(activity) for activity in activities]}
    write_text(target, _csv(layers) if target.suffix == ".csv" else json.dumps(whole))
    return {"output": str(target)}, f"Wrote {plain(str(target))}", 0


def report(options: argparse.Namespace) -> Answer:
    """``mono-quant report``: a run as one HTML page."""
    target = Path(options.output)
    if target.is_dir() or (target.exists() and target.suffix.lower() not in (".html", ".htm")):
        raise OutputError(f"{target} is there already; name a .html file.")
    with _ledger() as ledger:
        run = _run_or_artifact(ledger, options.run)
    if options.certify:
        against = run.model_path if os.path.exists(run.model_path) else None
        with Interruptible(options) as monitor:
            found = api.certify(run.artifact, against, monitor=monitor)
        write_text(Path(run.folder) / report_page.CERTIFICATE, json.dumps(to_data(found)))
    write_text(target, report_page.of_run(run))
    return {"output": str(target), "run": run.id}, f"Wrote {plain(str(target))}", 0


def _run_or_artifact(ledger: Ledger, text: str) -> RunRecord:
    """The newest run that wrote this artifact, or the run with this id. Raises InputError."""
    if not os.path.exists(text):
        return ledger.named(text)
    wanted = os.path.realpath(text)
    found = next((run for run in ledger.find() if os.path.realpath(run.artifact) == wanted), None)
    if found is None:
        raise InputError(f"No run that is kept wrote {text}; `mono-quant certify` says what is in it.")
    return found


def _delete(options: argparse.Namespace) -> Answer:
    with _ledger() as ledger:
        chosen = [ledger.named(text) for text in options.runs]
        chosen += ledger.find(states=options.state) if options.state else []
        if not chosen and not options.state:
            raise InputError("Name the runs to delete, or a state.")
        chosen = list({run.id: run for run in chosen}.values())
        freed = sum(ledger.disk_use(run.id) for run in chosen)
        for run in chosen:
            ledger.delete(run.id)
            workspace.discard(Path(run.artifact))
    return {"deleted": [run.id for run in chosen], "bytes": freed}, f"Deleted {len(chosen)} runs, {megabytes(freed)}.", 0


# -- again -------------------------------------------------------------------------------------------------------------


def _rerun(options: argparse.Namespace) -> Answer:
    with _ledger() as ledger:
        run = ledger.named(options.run)
    report = carry_out(run, options.output, overwrite=options.overwrite, trust=options.trust, options=options)
    same = _same(run.artifact, report.output)
    words = {True: "the same bytes as", False: "OTHER bytes than", None: "the artifact is gone of"}[same]
    changed = bool(run.model_hash and report.content_hash and run.model_hash != report.content_hash)
    notes = [f"{words} run {run.number}"] + (["the model's weights have changed since"] if changed else [])
    document = report_document(report) | {"run": report.run, "again": run.id, "identical": same, "model_changed": changed}
    return document, f"Wrote {plain(report.output)}: {'; '.join(notes)}.", 0


def _resume(options: argparse.Namespace) -> Answer:
    with _ledger() as ledger:
        run = ledger.named(options.run)
    if run.state != "unfinished":
        raise InputError(f"Run {run.number} is {run.state}; only unfinished runs go on.")
    overwrite = bool(run.arguments.get("overwrite"))
    report = carry_out(run, run.artifact, overwrite=overwrite, trust=options.trust, options=options, resume=True)
    words = f"Wrote {plain(report.output)} (run {report.run}); {len(report.resumed)} layers were finished before."
    return report_document(report) | {"resumed": list(report.resumed)}, words, 0


def carry_out(
    run: RunRecord, output: str, *, overwrite: bool, trust: bool, options: argparse.Namespace, resume: bool = False
) -> api.RunReport:
    """Do what a run was asked to do, once more. Raises InputError where that is not on disk."""
    asked = run.arguments
    given = asked.get("data")
    if asked.get("in_memory") or (given and given.get("in_memory")):
        raise InputError(
            f"Run {run.number} was given its {'model' if asked.get('in_memory') else 'data'} by a program: repeat it there."
        )
    if not os.path.exists(run.model_path):
        raise InputError(f"{run.model_path} is not there any more.")
    how = asked.get("how") or {}
    data = from_data(DataSpec, given) if given else None
    with contextlib.ExitStack() as stack:
        runnable = stack.enter_context(_loaded(run.model_path, how, trust)) if data or how else None
        summary = runnable.summary if runnable else api.open_model(run.model_path)
        plan = api.plan(
            summary, choices.recipe_from_text(run.recipe), format=asked.get("format"), shard_size=asked.get("shard_size")
        )
        monitor = stack.enter_context(Pausable(options))
        return api.quantize_to(
            plan, output, overwrite=overwrite, monitor=monitor, data=data, statistics=asked.get("statistics"),
            runnable=runnable, measure=asked.get("measure", 16), shard_size=asked.get("shard_size"), resume=resume,
        )  # fmt: skip


def _loaded(path: str, how: dict[str, Any], trust: bool) -> Any:
    factory = from_data(Factory, how["factory"]) if how.get("factory") else None
    return load(path, factory, trust=trust, fold_batch_norm=bool(how.get("fold_batch_norm")))


def _same(before: str, after: str) -> bool | None:
    """Whether two artifacts hold the same files with the same bytes; None where the first is gone."""
    if not os.path.exists(before) or os.path.samefile(before, after):
        return None
    first, second = (_files(Path(place)) for place in (before, after))
    return first.keys() == second.keys() and all(
        identity.bytes_of([path]) == identity.bytes_of([second[name]]) for name, path in first.items()
    )


def _files(artifact: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted(artifact.iterdir())} if artifact.is_dir() else {"": artifact}


# -- words -------------------------------------------------------------------------------------------------------------


def _layers(ledger: Ledger, run: RunRecord) -> list[LayerReport]:
    """What was measured; nothing of a run that ended before anything was."""
    try:
        return ledger.layers(run.id)
    except InputError:
        if run.state == "done":
            raise
        return []


def _document(run: RunRecord) -> Document:
    return to_data(run)


def _whole(run: RunRecord, layers: list[LayerReport]) -> Document:
    return _document(run) | {"layers": [to_data(layer) for layer in layers]}


def _csv(layers: list[LayerReport]) -> str:
    names = [field.name for field in dataclasses.fields(LayerReport) if field.name not in ("histogram", "ranges", "output")]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([getattr(layer, name) for name in names] for layer in layers)
    return out.getvalue()


def _when(run: RunRecord) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(run.created))


def _db(run: RunRecord) -> str:
    if not run.totals:
        return "–"
    return "exact" if run.totals.get("sqnr_db") is None else f"{run.totals['sqnr_db']:.2f}"


def _outside(run: RunRecord) -> int:
    """Bytes of an artifact that lies elsewhere."""
    artifact = Path(run.artifact)
    if artifact.is_relative_to(run.folder) or not artifact.exists():
        return 0
    return (
        sum(path.stat().st_size for path in artifact.iterdir() if path.is_file())
        if artifact.is_dir()
        else artifact.stat().st_size
    )
