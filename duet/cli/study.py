"""`duet study`: blind studies in which people rate clips; docs/study.md describes them."""

from __future__ import annotations

import csv
import importlib.util
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

from cyclopts import App, Parameter
from cyclopts.validators import Path as PathKind
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from duet.cli.exit_status import FAILED, USAGE, fail, usage_error
from duet.cli.options import option, within
from duet.cli.output import echo, table_console
from service.study.record import MAX_RATERS, NAME

if TYPE_CHECKING:
    from model.evaluation.intervals import Interval
    from model.evaluation.opinion import Opinion, Rating
    from service.settings import Settings
    from service.storage import Storage
    from service.study.record import Study
    from service.study.results import RaterResult
    from service.study.store import Ballots, StudyStore

MAX_CHECKS = 20

LOCAL_LINKS = (
    "The links begin with {address}, which works on this machine only, and only if the server listens there. "
    "Set DUET_PUBLIC_URL for raters elsewhere, DUET_PORT for another port."
)

NO_REAL = "No label is of real clips (--real): the rates of Turing tests mean nothing."

app = App(name="study", help="Blind studies: people rate clips and tell real ones from made ones.")

Name = Annotated[str, Parameter(help="The study's name: lower-case letters, digits, hyphens, underscores.")]
DataFolder = Annotated[
    Path | None, option("Data folder of the server; default DUET_DATA, or ./data.", validator=PathKind(file_okay=False))
]


@dataclass(frozen=True)
class _Place:
    """The records and the files of the service."""

    settings: Settings
    studies: StudyStore
    storage: Storage

    @property
    def address(self) -> str:
        """Where raters reach the service: `public_url`, or else this machine."""
        host, port = self.settings.host, self.settings.port
        shown = f"[{host}]" if ":" in host else host
        return self.settings.link_prefix or f"http://{shown}:{port}"

    def link(self, token: str) -> str:
        """Address of a rater's page."""
        return f"{self.address}/study/{token}"

    def get(self, name: str) -> Study:
        """Ends the command (exit status 1) if there is no such study."""
        from service.study.store import UnknownStudy

        try:
            return self.studies.get(name)
        except UnknownStudy as error:
            known = ", ".join(self.studies.names()) or "none"
            raise fail(FAILED, f"There is no study {name}. Studies here: {known}.") from error


@app.command
def create(
    name: Name,
    /,
    *,
    clips: Annotated[list[str], option("A folder of clips and its label; once a label.", metavar="LABEL=FOLDER")],
    raters: Annotated[int, option("Number of raters; each gets a link.", validator=within(1, MAX_RATERS))],
    repeats: Annotated[
        int | None, option("Number of raters who rate each clip; default: all.", validator=within(1, MAX_RATERS))
    ] = None,
    real: Annotated[
        list[str] | None, option("A label of real clips; may be repeated; default real.", metavar="LABEL")
    ] = None,
    checks: Annotated[
        int, option("Attention checks for each rater.", validator=within(0, MAX_CHECKS), show_default=True)
    ] = 2,
    data: DataFolder = None,
) -> None:
    """Create a study from folders of clips; prints one link for each rater."""
    from duet.cli.study_creation import CannotCreate, StudyPlan, find_clips
    from duet.cli.study_creation import create as create_files
    from service.study.store import StudyExists

    if not NAME.fullmatch(name):
        raise usage_error(
            "NAME",
            f"a name has 1 to 64 lower-case letters, digits, hyphens and underscores, and begins with a letter or "
            f"digit; got {name!r}",
        )
    repeats = raters if repeats is None else repeats
    if repeats > raters:
        raise usage_error("--repeats", f"{repeats} is more than the number of raters, {raters}")
    plan = StudyPlan(name, _folders(clips), tuple(real or ["real"]), raters, repeats, checks)
    if unknown := set(real or ()) - set(plan.folders):
        raise usage_error("--real", f"{', '.join(sorted(unknown))} is no label of --clips")
    if not set(plan.real) & set(plan.folders):
        echo(NO_REAL, err=True)
    with _place(data) as place:
        if name in place.studies.names():
            raise fail(FAILED, f"There is a study {name} already. Choose another name, or delete it.")
        try:
            total = len(find_clips(plan))
            with _progress() as progress:
                task = progress.add_task("clips", total=total)
                study, loudness = create_files(plan, place.storage, lambda: progress.advance(task))
            try:
                place.studies.create(study)
            except BaseException:
                place.storage.delete_prefix(f"{study.folder}/")
                raise
        except CannotCreate as error:
            raise fail(FAILED, str(error)) from error
        except StudyExists as error:
            raise fail(FAILED, f"There is a study {name} already.") from error
        each = len(study.raters[0].clips)
        words = (
            f"{total} clips at {loudness:.1f} LUFS; about {each} for each of {raters} raters, {checks} of them checks."
        )
        echo(words, err=True)
        if not place.settings.link_prefix:
            echo(LOCAL_LINKS.format(address=place.address), err=True)
        for rater in study.raters:
            echo(place.link(rater.token))


@app.command
def status(
    name: Annotated[str | None, Parameter(help="A study; default: list all.")] = None, /, *, data: DataFolder = None
) -> None:
    """Show the progress of each rater of NAME with the link, or list all studies."""
    from service.study.results import rater_results

    with _place(data) as place:
        if name is None:
            table = Table("study", "state", "clips", "raters", "submitted")
            for each in place.studies.names():
                study, ballots = place.get(each), place.studies.ballots(each)
                numbers = (len(study.clips), len(study.raters), len(ballots.submitted))
                table.add_row(each, "closed" if ballots.closed else "open", *map(str, numbers))
            _print(table)
            return
        study = place.get(name)
        table = Table("rater", "rated", "of", "standing")
        for result in rater_results(study, place.studies.ballots(name)):
            table.add_row(result.rater.id, str(result.rated), str(len(result.rater.clips)), str(result.standing))
        _print(table)
        for rater in study.raters:  # not in the table, which a narrow terminal cuts
            echo(f"{rater.id}  {place.link(rater.token)}")


@app.command
def report(
    name: Name,
    /,
    *,
    allow: Annotated[
        int, option("Attention checks that a rater may answer wrongly.", validator=within(0), show_default=True)
    ] = 0,
    unsubmitted: Annotated[bool, option("Also count raters who have not submitted.")] = False,
    out: Annotated[
        Path | None,
        option("Write opinions.csv, ratings.csv and opinions.png to this folder.", validator=PathKind(file_okay=False)),
    ] = None,
    data: DataFolder = None,
) -> None:
    """Print mean opinion scores, Turing rates and the raters' agreement."""
    from model.evaluation.opinion import summarise
    from model.evaluation.opinion_report import plot, write_csv
    from service.study.results import Standing, rater_results

    if out is not None and importlib.util.find_spec("matplotlib") is None:
        raise fail(USAGE, "--out needs matplotlib, which is not installed: pip install matplotlib")
    with _place(data) as place:
        study, ballots = place.get(name), place.studies.ballots(name)
    results = rater_results(study, ballots, allow)
    counted = {Standing.COUNTED, Standing.UNSUBMITTED} if unsubmitted else {Standing.COUNTED}
    ratings = _ratings(study, ballots, {each.rater.id for each in results if each.standing in counted})
    numbers = Counter(each.standing for each in results)
    words = f"Raters who count: {sum(numbers[each] for each in counted)}"
    words += f"; excluded for failed attention checks: {numbers[Standing.FAILED]}"
    words += f"; not submitted: {numbers[Standing.UNSUBMITTED]}; links not used: {numbers[Standing.UNUSED]}."
    if not ratings:
        raise fail(FAILED, f"There are no ratings to count yet. {words}")
    opinion = summarise(ratings, study.labels, study.real)
    _print(_table(study.name, opinion))
    if not set(study.real) & set(study.labels):
        echo(NO_REAL, err=True)
    agreement = ", ".join(f"{question} {alpha:.2f}" for question, alpha in opinion.agreement.items())
    echo(f"Agreement (Krippendorff's alpha): {agreement}.")
    echo(words)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_csv(opinion, out / "opinions.csv")
            _write_ratings(study, ballots, results, out / "ratings.csv")
            plot(opinion, out / "opinions.png")
        except OSError as error:
            raise fail(FAILED, f"{out} cannot be written: {error.strerror or error}") from error


@app.command
def close(name: Name, /, *, data: DataFolder = None) -> None:
    """Accept no more votes. The votes stay, and `duet study report` works as before."""
    with _place(data) as place:
        place.get(name)
        place.studies.close(name)
    echo(f"closed {name}")


@app.command
def delete(name: Name, /, *, data: DataFolder = None) -> None:
    """Erase the study, its votes and its clips."""
    with _place(data) as place:
        study = place.get(name)
        place.studies.close(name)
        place.storage.delete_prefix(f"{study.folder}/")  # before the record, so that a failure can be repeated
        place.studies.delete(study)
    echo(f"deleted {name}")


@contextmanager
def _place(data: Path | None) -> Iterator[_Place]:
    """Redis and storage of the settings; without DUET_REDIS_URL, Redis of the `duet serve` that uses the data folder.

    Ends the command (exit status 1) if one of them fails.
    """
    from service.jobs.connection import StoreUnavailable, connect
    from service.settings import load_settings
    from service.storage import StorageUnavailable, open_storage
    from service.study.store import StudyStore

    settings = load_settings(**({} if data is None else {"data": data}))
    socket = settings.data.absolute() / "redis" / "redis.sock"
    if "DUET_REDIS_URL" not in os.environ and socket.exists():
        settings = settings.model_copy(update={"redis_url": f"unix://{quote(str(socket))}"})
    client = connect(settings)
    try:
        yield _Place(settings, StudyStore(client), open_storage(settings))
    except StoreUnavailable as error:
        hint = "Start `duet serve`, select its folder with --data, or set DUET_REDIS_URL."
        raise fail(FAILED, f"Redis does not answer: {error}\n{hint}") from error
    except StorageUnavailable as error:
        raise fail(FAILED, f"The storage does not answer: {error}") from error
    finally:
        client.close()


def _folders(given: list[str]) -> dict[str, Path]:
    """Folders by label. Ends the command (exit status 2) for anything that is not LABEL=FOLDER."""
    folders: dict[str, Path] = {}
    for each in given:
        label, _, path = each.partition("=")
        if not (label.strip() and path):
            raise usage_error("--clips", f"{each!r} is not of the form LABEL=FOLDER")
        if label in folders:
            raise usage_error("--clips", f"the label {label!r} is given twice")
        if not Path(path).is_dir():
            raise usage_error("--clips", f"there is no folder {path}")
        folders[label] = Path(path)
    return folders


def _ratings(study: Study, ballots: Ballots, raters: set[str]) -> list[Rating]:
    from model.evaluation.opinion import Rating

    labels = {clip.id: clip.label for clip in study.clips if clip.expected is None}
    return [
        Rating(rater, clip, labels[clip], *vars(vote.answers).values())
        for rater, votes in ballots.votes.items()
        for clip, vote in votes.items()
        if rater in raters and clip in labels
    ]


def _write_ratings(study: Study, ballots: Ballots, results: list[RaterResult], path: Path) -> None:
    """Every vote, with the standing of its rater."""
    clips = {clip.id: clip for clip in study.clips}
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["rater", "standing", "clip", "label", "source", "video", "sound", "match", "real"])
        for result in results:
            for clip, vote in sorted(ballots.votes.get(result.rater.id, {}).items()):
                answers = (vote.answers.video, vote.answers.sound, vote.answers.match, int(vote.answers.real))
                about = (clips[clip].label or "check", clips[clip].source)
                rows.writerow([result.rater.id, str(result.standing), clip, *about, *answers])


def _table(name: str, opinion: Opinion) -> Table:
    table = Table(title=f"{name}: mean opinion scores (1 … 5) and rates, intervals of 95 %", title_justify="left")
    for column in ("label", "clips", "ratings", "picture", "sound", "match", "taken for real", "judged rightly"):
        table.add_column(column, justify="left" if column == "label" else "right")
    for label in opinion.labels:
        scores = (_shown(label.scores[scale]) for scale in ("video", "sound", "match"))
        rates = (_shown(each, percent=True) for each in (label.judged_real, label.right))
        table.add_row(label.label, str(label.clips), str(label.ratings), *scores, *rates)
    return table


def _shown(interval: Interval, percent: bool = False) -> str:
    value, low, high = interval.value, interval.low, interval.high
    if percent:
        return f"{value:.0%} ({low:.0%} … {high:.0%})"
    return f"{value:.2f} ({low:.2f} … {high:.2f})"


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _print(table: Table) -> None:
    table_console().print(table)
