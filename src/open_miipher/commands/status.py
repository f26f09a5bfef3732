"""Say how far a corpus run is, check its outputs, or have its failures tried again."""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from open_miipher.base.amounts import counted, duration
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.base.rows import Row
from open_miipher.base.shipped import as_called
from open_miipher.base.threads import num_cores
from open_miipher.commands import Parser
from open_miipher.corpus.ledger import Ledger
from open_miipher.corpus.status import (
    RECENT_SECONDS,
    Speed,
    Survey,
    failures,
    least_trusted,
    open_ledger,
    survey,
)

if TYPE_CHECKING:
    from open_miipher.corpus.verify import Wrong

DESCRIPTION = """\
Say how far a restoration, preprocessing or tokenising is, over all its processes and array tasks:
done, left, failed, speed, time to go, which tasks are at work, and why files failed. Works while
tasks run, locks and writes nothing (but with --retry-failed).

exit status: 0; 1 if --verify finds something wrong; 2 wrong use. With --exit-status, what the run
ended with: 0 all is done, but for its --max-failures; 2 it could not go on (a full disk, say);
3 more failed; 4 there is work left: it was ended early, or is at work.
"""

_SHOWN = 20  # tasks, failures and wrong files that are listed in full


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=DESCRIPTION)
    add = parser.add_argument
    add(
        "output_dir",
        type=Path,
        metavar="OUT",
        help="the --output-dir of src/inference.py or src/tokenize_audio.py, or a JOB_ID folder of "
        "src/preprocess.py",
    )
    add("--json", action="store_true", help="print one JSON object with everything")
    add(
        "--failed",
        action="store_true",
        help="print only the failures, one a line: what failed, a tab, and why; with --json, as "
        "JSON lines",
    )
    add(
        "--worst",
        type=int,
        metavar="N",
        help="print only the N restored files that are trusted least, one a line: trust (0 to 1), "
        "the input, and the reason; with --json, as lines of the manifest (docs/trust.md)",
    )
    add(
        "--verify",
        action="store_true",
        help="decode every output and compare its frames, rate, channels and level with what was "
        "recorded; find missing, damaged, silent and extra files",
    )
    add(
        "--num-workers",
        type=int,
        default=num_cores(),
        metavar="N",
        help="files that --verify decodes at once (default: the cores, %(default)s)",
    )
    add(
        "--retry-failed",
        action="store_true",
        help="forget the failures, and what --verify found wrong, so that the same command "
        "makes these files again; not while tasks run",
    )
    add(
        "--outputs-elsewhere",
        action="store_true",
        help="with --verify: pass over outputs that are not here, since they were moved away",
    )
    add(
        "--exit-status",
        action="store_true",
        help="end with the run's own status, which torchrun does not pass on",
    )
    add(
        "--shard-id",
        type=int,
        metavar="K",
        help="with --exit-status: of this task of the newest job array, not of all",
    )
    arguments = parser.parse_args(argv)
    if arguments.shard_id is not None and not arguments.exit_status:
        parser.error("--shard-id goes with --exit-status")
    if arguments.worst is not None and arguments.worst < 1:
        parser.error("--worst must be at least 1")
    if arguments.num_workers < 1:
        parser.error("--num-workers must be at least 1")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Look, check, forget, say."""
    arguments = parse_arguments(argv)
    try:
        return _main(arguments)
    except OSError as error:
        if error.filename is None:  # no file's fault
            raise
        raise UserError(f"{printable(error.filename)}: {error.strerror}") from error


def _main(arguments: argparse.Namespace) -> int:
    ledger = open_ledger(arguments.output_dir)
    if arguments.failed:
        for failure in failures(ledger):
            print(json.dumps(failure) if arguments.json else _failed_line(failure))
        return 0
    if arguments.worst is not None:
        for row in least_trusted(ledger, arguments.worst):
            print(json.dumps(row) if arguments.json else _worst_line(row))
        return 0
    seen = survey(ledger)
    if arguments.retry_failed:  # nobody may start while it is decided what to make again
        ledger.claim(ledger.state()["identity"])
    wrong = None
    if arguments.verify:
        from open_miipher.corpus.verify import verify  # brings torch

        is_running = any(task.state == "running" for task in seen.tasks)
        shown = not arguments.json
        elsewhere = arguments.outputs_elsewhere
        wrong = verify(ledger, arguments.num_workers, is_running, shown, seen.unit, elsewhere)
    num_forgotten = _forget(ledger, wrong or []) if arguments.retry_failed else None
    if arguments.json:
        print(json.dumps(_plain(seen, wrong, num_forgotten), indent=1))
    else:
        print("\n".join(_lines(arguments.output_dir, seen, wrong, num_forgotten)))
    if wrong:
        return 1
    return _exit_status(seen, arguments.shard_id) if arguments.exit_status else 0


def _failed_line(failure: dict[str, str]) -> str:
    return "\t".join(printable(failure[key]) for key in ("input", "error"))


def _worst_line(row: Row) -> str:
    kept = ["the input was kept"] if row["kept_input"] else []
    reason = "; ".join([row["trust_reason"] or "nothing found", *kept])
    return f"{row['trust']:.2f}\t{printable(row['input'])}\t{reason}"


def _exit_status(seen: Survey, shard_id: int | None) -> int:
    if shard_id is None:
        return seen.exit_status
    if not 0 <= shard_id < len(seen.tasks):
        raise UserError(f"--shard-id {shard_id}: the newest run here has {len(seen.tasks)} tasks")
    return seen.tasks[shard_id].exit_status


def _forget(ledger: Ledger, wrong: "list[Wrong]") -> int:
    damaged, gone = {entry.item for entry in wrong}, ledger.gone()
    again = {
        item: row
        for item, row in ledger.rows(fields=("error", "seconds")).items()
        if (row.get("error") is not None and item not in gone) or item in damaged
    }
    ledger.forget(again)
    return len(again)


def _plain(
    seen: Survey, wrong: "list[Wrong] | None", num_forgotten: int | None
) -> dict[str, object]:
    plain = asdict(seen)
    if wrong is not None:
        plain["wrong"] = [asdict(entry) for entry in wrong]
    if num_forgotten is not None:
        plain["num_forgotten"] = num_forgotten
    return plain


def _lines(
    output_dir: Path, seen: Survey, wrong: "list[Wrong] | None", num_forgotten: int | None
) -> Iterator[str]:
    about = "about " if seen.is_estimate else ""
    yield (
        f"{seen.unit + ':':<12} {seen.num_done:,} of {seen.num_inputs:,} done, "
        f"{seen.num_left:,} left, {seen.num_failed:,} {seen.called_failed}"
    )
    if seen.num_gone:
        yield f"besides:     {seen.num_gone:,} of earlier runs that are not asked for any more"
    if seen.samples is not None:
        made, failed = seen.samples.num_made, seen.samples.num_failed
        carried = seen.samples.num_carried
        rest = f", {carried:,} members of others carried along" if carried else ""
        yield f"samples:     {made:,} made, {failed:,} failed{rest}"
    done, left = duration(seen.seconds_done), duration(seen.seconds_left)
    yield f"audio:       {done} done, {about}{left} left"
    if seen.recent is not None:
        minutes = min(RECENT_SECONDS, seen.recent.seconds) / 60
        yield f"speed:       {_speed(seen.recent, seen.unit)} in the last {minutes:.0f} min"
    if seen.overall is not None:
        label = "speed:      " if seen.recent is None else "            "
        speed = _speed(seen.overall, seen.unit)
        yield f"{label} {speed} in all, over {duration(seen.overall.seconds)}"
    if seen.seconds_to_go is not None:
        yield f"time to go:  {_to_go(seen.seconds_to_go)} for what is running, at this speed"
    yield from _task_lines(seen)
    yield from _failure_lines(output_dir, seen, num_forgotten)
    if wrong is not None:
        yield f"verified:    {len(wrong):,} wrong" if wrong else "verified:    all is as recorded"
        yield from (f"  {entry.problem}" for entry in wrong[:_SHOWN])
        if len(wrong) > _SHOWN:
            yield f"  … and {len(wrong) - _SHOWN:,} more (--json lists all)"
    if num_forgotten is not None:
        again = "; the same command as before makes them again" if num_forgotten else ""
        yield f"forgotten:   {num_forgotten:,}{again}"


def _task_lines(seen: Survey) -> Iterator[str]:
    tasks = seen.tasks
    states = Counter(task.state for task in tasks)
    yield f"tasks:       {', '.join(f'{count} {state}' for state, count in states.items())}"
    for state in ("running", "stopped"):
        chosen = [task for task in tasks if task.state == state]
        for task in chosen[:_SHOWN]:
            left = "" if task.num_left is None else f", {counted(task.num_left, seen.unit)} left"
            hours = "" if not task.num_left else f" ({duration(task.seconds_left)})"
            yield f"  {task.name}: {state}, {task.who or task.how}{left}{hours}"
        if len(chosen) > _SHOWN:
            yield f"  … and {len(chosen) - _SHOWN} more {state}"


def _failure_lines(output_dir: Path, seen: Survey, num_forgotten: int | None) -> Iterator[str]:
    if not seen.failures:
        return
    yield "failed:"
    for failure in seen.failures[:_SHOWN]:
        yield f"  {failure.count:,} × {failure.reason}"
        yield f"      e.g. {failure.example}"
    if len(seen.failures) > _SHOWN:
        yield f"  … and {len(seen.failures) - _SHOWN} more reasons"
    if num_forgotten is None:
        again = as_called(f"python src/status.py {printable(output_dir)} --retry-failed")
        yield f"  to try them again: {again}, and then the same command as before"


def _speed(speed: Speed, unit: str) -> str:
    return f"{speed.real_time:,.1f} times as fast as real time, {speed.files:,.2f} {unit}/s"


def _to_go(seconds: float) -> str:
    minutes = round(seconds / 60)
    days, hours = minutes // 1440, minutes % 1440 // 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{max(1, minutes)} min"
