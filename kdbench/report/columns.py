"""Descriptions of the columns of the data frames, and of the files that are made from them."""

from kdbench.analysis.board import REFERENCE, REFERENCES
from kdbench.analysis.harm import MIN_SEEDS
from kdbench.metrics.catalog import METRICS
from kdbench.results.submitted import MARKS

PARTS = {"mean": "mean over the row's seeds", "low": "lower end of the 95 % t interval over seeds",
         "high": "upper end of the 95 % t interval over seeds"}


def meaning() -> dict[str, str]:
    """The description of each column of the leaderboard's data frame and of that of runs, by the column's name."""
    found = {
        "role": "student; teacher, whose figures are a yardstick; of runs also trial, one of tuning, which never sees "
                "test images",
        "method": "the method's name; of a leaderboard's teacher, its architecture",
        "family": "of the method",
        "pair": "which networks are teacher and student",
        "dataset": "its name, with modifiers",
        "cell": "id of what methods are compared in: one pair, dataset and recipe",
        "hyperparameters": "of a row those that are not the method's defaults, of a run all",
        "conditions": "under which other conditions than plain training the method learned",
        "submission": f"of results that others submitted, how far they were checked: {', '.join(MARKS)}",
        "seeds": "how many finished runs the row has",
        "seed_values": "their seeds",
        "failed": "how many runs diverged, crashed or ran out of time",
        "missing": "how many runs are planned and have no record",
        "inapplicable": "how many runs the method does not apply to",
        "failures": "seed, status and reason of each run without a result",
        "reported_test_accuracy": "test accuracy that a publication gives for the method on this pair and dataset",
        "reported_by": "that publication",
        "tier": "1 for the methods that see the data and that no other is significantly better than, 2 for the same "
                "among the rest and so on",
        "training_energy_source": "how the energy of training was found: a counter, or an estimate",
        "use_energy_source": "how the energy of the student's use was found",
        "classes_harmed": f"classes on which the method is worse than {REFERENCE}, at 5 % after Holm's correction; "
                          f"missing with fewer than {MIN_SEEDS} shared seeds",
        "classes_helped": f"classes on which it is better than {REFERENCE}; likewise",
        "flipped": f"share of test images on which the majority vote of its seeds is another one than {REFERENCE}'s",
        "flipped_accuracy": "accuracy of the method on those images",
        f"flipped_{REFERENCE}_accuracy": f"accuracy of {REFERENCE} on those images",
        "most_affected_classes": f"the classes whose accuracy changes most against {REFERENCE}",
        "shares": "mean accuracies by kind of part of the test images, then by part: class, group, corruption",
        "runs": "the ids of the row's runs",
        "results": "SHA-256 of the weights, predictions and metrics of all runs of the suite",
        "records": "SHA-256 of all files that the suite's tables are made from",
        "run": "id of the run: the beginning of the SHA-256 of all that can change its result",
        "status": "ok, or why there are no metrics: diverged, crashed, timeout, inapplicable, pruned",
        "reason": "what the status says, in one line",
        "suite": "the suite that the row or run is of",
        "seed": "of the run's random streams",
        "updates": "updates of the student in multiples of the recipe's",
        "epochs": "passes over the training images",
        "weights_sha256": "of the file of the trained network",
        "predictions_sha256": "of the file of its predictions on validation and test images",
        "dataset_digest": "SHA-256 of the images and labels that the run saw",
        "method_digest": "SHA-256 of the method's source file",
        "started": "date and time in UTC",
        "finished": "date and time in UTC",
        "device": "what it trained on",
        "machine": "the model of that GPU, or of the processor",
        "git_commit": "the commit of kdbench that it ran from",
    }
    for name in REFERENCES:
        of = f"of test accuracy to {name}, on the seeds that both have"
        found |= {
            f"difference_to_{name}_mean": f"mean difference {of}",
            f"difference_to_{name}_low": f"lower end of the 95 % t interval of the difference {of}",
            f"difference_to_{name}_high": f"upper end of the 95 % t interval of the difference {of}",
            f"difference_to_{name}_moderated_low": f"lower end of the moderated 95 % interval of the difference {of}",
            f"difference_to_{name}_moderated_high": f"upper end of the moderated 95 % interval of the difference {of}",
            f"difference_to_{name}_degrees": "degrees of freedom of the moderated interval",
            f"difference_to_{name}_p": "p of no difference, by the moderated t-test",
            f"difference_to_{name}_p_holm": "the same after Holm's correction for all methods of the cell",
            f"wins_over_{name}": f"of pairs of runs with one seed, those that were better than {name}'s; a tie is half",
            f"pairs_with_{name}": f"how many such pairs there are, a failed run being lost to {name}",
        }
    for name, metric in METRICS.items():
        unit = f", {metric.unit}" if metric.unit else ""
        unit = " (share, 0 to 1)" if metric.unit == "share" else unit
        found |= {name: f"{metric.title}{unit}: {metric.definition}",
                  **{f"{name}_{part}": f"{metric.title}{unit}: {what}" for part, what in PARTS.items()}}
    return found
