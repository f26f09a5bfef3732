"""Measure restored files: `src/evaluate.py --restored-dir R --output-dir O`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from open_miipher.base.errors import report

DESCRIPTION = """\
Measure a folder of restored recordings: by themselves (DNSMOS, NISQA, bandwidth, level), and
against the clean ones of the same names (ESTOI, wide-band PESQ at 16 kHz, log-spectral distance,
speaker similarity); the inputs beside them. Several channels are measured as their mean.

OUTPUT_DIR/per_file.csv has a row for each file; its column `problems` says what could not be
measured. OUTPUT_DIR/summary.json gives for each metric mean, low, high (95 % bootstrap interval of
the mean) and n; names of the inputs' values begin with input_. The packages that measure come with
`pip install '.[evaluation]'`; a metric whose package is missing is left out, and named.

With --classifier, R holds clips that were generated from nothing: summary.json gains fid, is, mis,
am and ndb against the clips that the classifier was trained on, the same of held-out real clips
(test_fid …), and the classifier's accuracy on these. It must be at least 90 %.
"""

EXAMPLE = """\
example:
  python src/evaluate.py --restored-dir clean --input-dir noisy --reference-dir studio \\
      --output-dir results
  python src/evaluate.py --restored-dir generated --classifier output/digits --output-dir results
"""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--restored-dir", type=Path, required=True, metavar="R", help="what is measured")
    add(
        "--reference-dir",
        type=Path,
        metavar="C",
        help="the clean recordings, same names; "
        "with --classifier, the clips that it was trained on (default: as its checkpoint says)",
    )
    add("--input-dir", type=Path, metavar="I", help="what was restored, same names")
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
    add("--output-dir", type=Path, required=True, metavar="O", help="where the results go")
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
    add(
        "--num-workers",
        type=int,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="files measured at once (default: the cores, %(default)s)",
    )
    arguments = parser.parse_args(argv)
    if arguments.num_workers < 1:
        parser.error("--num-workers must be at least 1")
    if arguments.test_dir and not arguments.classifier:
        parser.error("--test-dir belongs to --classifier")
    if arguments.input_dir and arguments.classifier:
        parser.error("--input-dir is for restored files, --classifier for generated ones")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Match, measure, write, say."""
    arguments = parse_arguments(argv)
    weights = arguments.nisqa_weights
    if weights is not None and not weights.is_file():
        report([f"--nisqa-weights {weights} is not a file"])
    if arguments.output_dir.resolve() == arguments.restored_dir.resolve():
        report([f"--output-dir {arguments.output_dir} is --restored-dir: choose another folder"])
    from open_miipher.evaluation import evaluate  # slow to import
    from open_miipher.evaluation.measures import Settings

    judge = None
    if arguments.classifier is not None:
        from open_miipher.evaluation.generation import SCORES, Judge, score_table

        judge = Judge(arguments.classifier, arguments.reference_dir, arguments.test_dir)
    reference_dir = None if judge else arguments.reference_dir  # real clips are no counterparts
    files = evaluate.match_files(arguments.restored_dir, reference_dir, arguments.input_dir)
    try:  # before all is measured
        arguments.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        report([f"--output-dir {arguments.output_dir} cannot be made: {error.strerror}"])
    settings = Settings(weights, tuple(arguments.measures))
    evaluator = evaluate.Evaluator(settings, reference_dir is not None)
    for name, reason in evaluator.left_out.items():
        print(f"left out: {name}: {reason}", file=sys.stderr)
    judged: evaluate.Summary = {}
    if judge is not None:
        judged, problem = judge.compare([file.restored for file in files])
        if problem:
            print(f"left out: {', '.join(SCORES)}: {problem}", file=sys.stderr)
    columns = evaluate.columns_of(evaluator.measures, arguments.input_dir is not None)
    rows = []
    for row in evaluate.measure_all(files, evaluator, arguments.num_workers):
        rows.append(row)
        if row["problems"]:
            print(f"{row['file']}: {row['problems']}", file=sys.stderr)
    summary = evaluate.summarise(rows, columns)
    evaluate.write_results(arguments.output_dir, rows, columns, summary | judged)
    print(evaluate.summary_table(summary))
    if judged:
        print(f"\n{score_table(judged)}")
    if not summary:
        report([f"nothing could be measured: see {arguments.output_dir / evaluate.PER_FILE}"])
    return 0
