"""Measure restored files: `src/evaluate.py --restored-dir R --output-dir O`."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from open_miipher.base.errors import report
from open_miipher.base.paths import lies_in, printable
from open_miipher.base.shipped import as_called
from open_miipher.base.threads import num_cores
from open_miipher.commands import Parser
from open_miipher.corpus.outcome import INTERRUPTED

if TYPE_CHECKING:  # what is slow to import comes after the command line was read
    from open_miipher.evaluation.evaluate import Evaluator
    from open_miipher.evaluation.results import Evaluation, Row, Sounds, Summary

REPORT = "report"
"""The folder of --report, in the output directory."""

DESCRIPTION = """\
Measure a folder of restored recordings, or several systems' on the same files: by themselves
(DNSMOS, NISQA, bandwidth, level), against the clean ones of the same names (ESTOI, wide-band PESQ
at 16 kHz, log-spectral and mel distances, speaker similarity, length, lag), and against what is
said (wrong words); the inputs beside them. Several channels are measured as their mean.

OUTPUT_DIR/per_file.csv has a row for each file (and system, if there are several); its column
`problems` says what could not be measured. OUTPUT_DIR/summary.json gives for each metric mean, low,
high (95 % bootstrap interval of the mean) and n; names of the inputs' values begin with input_. Of
several systems, it has that for each under `systems`, and under `paired` the differences to the
first system, over the files that both have. The packages that measure come with
`pip install '.[evaluation]'`; a metric whose package is missing is left out, and named.

--report writes OUTPUT_DIR/report/index.html: pages without a server, with all tables, the worst
files first, players, spectrograms, and a blind test; --votes sums what its listeners saved.

Started again, the command measures what is left, or has changed; the table is the same. What was
measured is in OUTPUT_DIR/.ledger.

With --classifier, R holds clips that were generated from nothing: summary.json gains fid, is, mis,
am and ndb against the clips that the classifier was trained on, the same of held-out real clips
(test_fid …), and the classifier's accuracy on these. It must be at least 90 %.
"""

EXAMPLE = """\
exit status: 0 all is measured, as far as it can be; 2 wrong use, or nothing could be measured; 3 a
file cannot be read, or ends the process that measures it; 4 a signal ended it early, and the same
command goes on.

examples:
  python src/evaluate.py --restored-dir clean --input-dir noisy --reference-dir studio \\
      --output-dir results
  python src/evaluate.py --restored-dir ours=clean other=clean_by_another --input-dir noisy \\
      --reference-dir studio --text studio --words pocketsphinx --output-dir results
  python src/evaluate.py --restored-dir ours=clean other=clean_by_another --input-dir noisy \\
      --output-dir results --report
  python src/evaluate.py --votes votes-Ann.json votes-Bob.json
  python src/evaluate.py --restored-dir generated --classifier output/digits --output-dir results
"""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=DESCRIPTION, epilog=EXAMPLE)
    add = parser.add_argument
    add(
        "--restored-dir",
        nargs="+",
        metavar="[NAME=]R",
        help="what is measured; of several systems, differences are to the first (a system's name "
        "by default: its folder's)",
    )
    add(
        "--reference-dir",
        type=Path,
        metavar="C",
        help="the clean recordings, same names; "
        "with --classifier, the clips that it was trained on (default: as its checkpoint says)",
    )
    add("--input-dir", type=Path, metavar="I", help="what was restored, same names")
    add(
        "--text",
        type=Path,
        metavar="T",
        help="what is said: a csv file with the columns file_path and text, or a folder with such "
        "a metadata.csv, or with a .txt for each recording; same names",
    )
    add(
        "--words",
        metavar="MODEL",
        help="what hears words, for --text: the folder of a CTC model of transformers, or "
        "pocketsphinx (English, offline: pip install '.[words]')",
    )
    add(
        "--classifier",
        type=Path,
        metavar="CKPT",
        help="judges generated clips: a checkpoint of "
        "model=digit_classifier, or the folder of its run",
    )
    add(
        "--test-dir",
        type=Path,
        metavar="T",
        help="with --classifier: held-out real clips, indexed (default: as its checkpoint says)",
    )
    add("--output-dir", type=Path, metavar="O", help="where the results go")
    add(
        "--nisqa-weights",
        type=Path,
        metavar="FILE",
        help="nisqa.tar of NISQA v2 (github.com/gabrielmittag/NISQA; not for commercial use)",
    )
    add(
        "--measures",
        nargs="+",
        default=[],
        metavar="NAME",
        help="take only these, such as level (default: all that can be taken)",
    )
    add("--overwrite", action="store_true", help="measure everything again")
    add("--report", action="store_true", help="write pages to look at and listen to, O/report")
    add(
        "--report-files",
        type=int,
        default=60,
        metavar="N",
        help="how many files can be heard in it: the worst, the best and some between; the others "
        "are listed (default: %(default)s)",
    )
    add(
        "--report-seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="how much of each file can be heard in it, from its start (default: %(default)s)",
    )
    add(
        "--votes",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="only sum votes that were saved in the report's blind test",
    )
    add(
        "--num-workers",
        type=int,
        default=num_cores(),
        metavar="N",
        help="files measured at once (default: the cores, %(default)s)",
    )
    arguments = parser.parse_args(argv)
    _check(arguments, parser)
    return arguments


def _check(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """End with a sentence where options do not go together."""
    if not arguments.votes and not (arguments.restored_dir and arguments.output_dir):
        parser.error("it takes --restored-dir and --output-dir, or --votes")
    if arguments.report_files < 0 or not arguments.report_seconds > 0:
        parser.error("--report-files must not be negative, --report-seconds more than 0")
    if arguments.num_workers < 1:
        parser.error("--num-workers must be at least 1")
    if arguments.test_dir and not arguments.classifier:
        parser.error("--test-dir belongs to --classifier")
    if arguments.classifier and (arguments.input_dir or arguments.text):
        parser.error("--input-dir and --text are for restored files, --classifier for generated")
    if arguments.classifier and len(arguments.restored_dir) > 1:
        parser.error("--classifier judges one folder at a time")
    if bool(arguments.text) != bool(arguments.words):
        parser.error("--text and --words belong together: what is said, and what hears it")


def _systems(given: Sequence[str]) -> dict[str, Path]:
    """Return the folder of each system, by its name.

    Raises:
        UserError: two have one name, or a name cannot be one.
    """
    found: dict[str, Path] = {}
    for text in given:
        name, is_named, folder = text.partition("=")
        if not is_named or Path(text).is_dir():
            name, folder = Path(os.path.abspath(text)).name, text
            name = name if len(given) > 1 else "restored"
        if not folder:
            report([f"--restored-dir {text} names no folder: give NAME=FOLDER"])
        if name in found or not name or "/" in name or name == "input":
            report(
                [
                    f"--restored-dir {text}: a system cannot be called {name!r}; give each "
                    "another name, such as NAME=FOLDER, without slashes, and not input"
                ]
            )
        found[name] = Path(folder)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Match, measure, write, say."""
    arguments = parse_arguments(argv)
    if arguments.votes:
        from open_miipher.evaluation.votes import read_votes, sum_votes, votes_table

        print(votes_table(sum_votes(read_votes(arguments.votes))))
        return 0
    systems = _systems(arguments.restored_dir)
    weights, output_dir = arguments.nisqa_weights, arguments.output_dir
    if weights is not None and not weights.is_file():
        report([f"--nisqa-weights {weights} is not a file"])
    beside = {"--reference-dir": arguments.reference_dir, "--input-dir": arguments.input_dir}
    for option, folder in [*(("--restored-dir", x) for x in systems.values()), *beside.items()]:
        if folder is not None and lies_in(output_dir, folder):
            report([f"--output-dir {output_dir} lies in {option} {folder}: choose another folder"])
    from open_miipher.evaluation.evaluate import Evaluator, find_texts, match_files
    from open_miipher.evaluation.measures import Settings
    from open_miipher.evaluation.results import Summary

    judge = None
    if arguments.classifier is not None:
        from open_miipher.evaluation.generation import SCORES, Judge, score_table

        judge = Judge(arguments.classifier, arguments.reference_dir, arguments.test_dir)
    reference_dir = None if judge else arguments.reference_dir  # real clips are no counterparts
    sounds = match_files(systems, reference_dir, arguments.input_dir)
    texts = find_texts(arguments.text, list(sounds)) if arguments.text else {}
    try:  # before all is measured
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        report([f"--output-dir {output_dir} cannot be made: {error.strerror}"])
    if arguments.report:
        from open_miipher.evaluation.report import check_place

        check_place(output_dir / REPORT)
    settings = Settings(weights, tuple(arguments.measures), arguments.words)
    evaluator = Evaluator(settings, reference_dir is not None, bool(texts))
    names_of: dict[str, list[str]] = {}
    for name, reason in evaluator.left_out.items():
        names_of.setdefault(reason, []).append(name)
    for reason, names in names_of.items():
        print(as_called(f"left out: {', '.join(names)}: {reason}"), file=sys.stderr)
    if not evaluator.measures:
        report(["no metric can be taken: the lines above say why"])
    judged: Summary = {}
    if judge is not None:
        judged, problem = judge.compare(
            [path for s in sounds.values() for path in s.restored.values()]
        )
        if problem:
            print(f"left out: {', '.join(SCORES)}: {problem}", file=sys.stderr)
    code = _measure(arguments, systems, sounds, texts, evaluator, judged)
    if judged:
        print(f"\n{score_table(judged)}")
    return code


def _measure(
    arguments: argparse.Namespace,
    systems: Mapping[str, Path],
    sounds: "Mapping[str, Sounds]",
    texts: Mapping[str, str],
    evaluator: "Evaluator",
    more: "Summary",
) -> int:
    """Measure what is left, write, and say what was found."""
    import torch

    from open_miipher.corpus.evaluating import Evaluate
    from open_miipher.corpus.pool import Pool
    from open_miipher.corpus.run import run
    from open_miipher.distributed import World
    from open_miipher.evaluation.results import PER_FILE, summary_table

    num_workers, output_dir = min(arguments.num_workers, len(sounds)), arguments.output_dir
    with Pool(num_workers) as pool:
        workers = pool if num_workers > 1 else None
        task = Evaluate(list(systems), sounds, texts, evaluator, output_dir, workers, more)
        try:
            ended = run(task, output_dir, World(0, 1, torch.device("cpu")), arguments.overwrite)
        except KeyboardInterrupt:
            return INTERRUPTED
    print(ended.sentence("measured"), file=sys.stderr)
    found = task.found
    assert found is not None
    for row in found.rows:
        if row["problems"]:
            print(f"{_place(found, row)}: {row['problems']}", file=sys.stderr)
    if ended.stopped:
        print(f"ended early by {ended.stopped}; the same command goes on", file=sys.stderr)
        return ended.exit_code
    if not any(found.summaries.values()):
        report([f"nothing could be measured: see {output_dir / PER_FILE}"])
    print(summary_table(found))
    if arguments.report:
        try:
            _write_report(arguments, systems, found)
        except KeyboardInterrupt:
            return INTERRUPTED
    return ended.exit_code


def _write_report(
    arguments: argparse.Namespace, systems: Mapping[str, Path], found: "Evaluation"
) -> None:
    from open_miipher.distributed import hold, stop_signals_interrupt
    from open_miipher.evaluation.report import write_report
    from open_miipher.evaluation.report_plan import plan_report, read_trust

    stop_signals_interrupt()
    trusted: dict[Path, tuple[float, str]] = {}
    for folder in systems.values():
        trusted |= read_trust(folder)
    plan = plan_report(found, trusted, arguments.report_files, arguments.report_seconds)
    print(plan, file=sys.stderr)
    pages = arguments.output_dir / REPORT
    with hold(arguments.output_dir / ".ledger"):  # two would write into each other's pages
        write_report(pages, found, plan, arguments.num_workers, " and ".join(found.systems))
    print(f"open it in a browser: {pages / 'index.html'}", file=sys.stderr)


def _place(found: "Evaluation", row: "Row") -> str:
    """Return which row of the table it is, for people."""
    file = printable(str(row["file"]))
    return file if len(found.systems) == 1 else f"{row['system']}: {file}"
