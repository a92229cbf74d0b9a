"""What each arm is, in one line, and what each word and sign of a report means; each is explained once."""

from __future__ import annotations

from collections.abc import Mapping

from llm_jepa.errors import ConfigError
from llm_jepa.experiments.experiment import read_experiment
from llm_jepa.experiments.results import Results
from llm_jepa.objective.config import JEPAConfig
from llm_jepa.runs.settings import RunConfig

from .formatting import as_text

DISTANCES = {
    "cosine": "cosine distance",
    "infonce": "InfoNCE, in which a view must find its partner in the batch",
    "infonce_symmetric": "InfoNCE in both directions, in which each view must find its partner in the batch",
}
TARGETS = {
    "stop_grad": "gradient through the prediction only",
    "shared": "gradients through both views",
    "ema": "the target from a slow copy of the model",
}
DESCRIBED = {
    *("jepa_lambda", "jepa_term", "jepa_distance", "jepa_target", "jepa_k"),  # by `_term_in_words`
    *("shuffle_views", "shuffle_rule", "teacher", "rewrite_first", "views_ratio"),  # by `_line`
}


def arm_lines(results: Results) -> dict[str, str]:
    """Return each arm's name and what it is; {} if the settings are of a version that this one cannot read."""
    settings = {key: value for key, value in results.settings.items() if key != "data"}
    try:
        _, runs = read_experiment(settings, trains=False)
    except ConfigError:
        return {}
    return {arm: _line(arm, runs, results.baseline) for arm in results.arms if arm in runs}


def _line(arm: str, runs: Mapping[str, RunConfig], baseline: str) -> str:
    run = runs[arm]
    parts = [_term_in_words(run.jepa)]
    if run.data.shuffle_views and run.jepa.has_term:
        alike = ((name, each) for name, each in runs.items() if (each.jepa, each.teacher) == (run.jepa, run.teacher))
        like = next((name for name, each in alike if not each.data.shuffle_views), None)
        start = parts[0] if like is None else f"As {like}"
        parts = [f"{start}, but each text has the code of another pair: a control"]
    if run.teacher.rewrite_first:
        parts = [f"no training: {run.teacher.teacher} rewrites each test text into the other phrasing, and answers it"]
    elif run.teacher.teacher is not None:
        parts.append(f"trained on the answers of {run.teacher.teacher} too")
    if run.data.views_ratio == 0:
        parts.append("no rows of view pairs")
    if arm == baseline:
        parts.append("the baseline")
    elif baseline in runs:
        own, theirs = run.settings, runs[baseline].settings
        changed = {key for key in own | theirs if own.get(key) != theirs.get(key)} - DESCRIBED
        parts += [f"{key} {as_text(own.get(key, 'default'))}" for key in sorted(changed)]
    return "; ".join(parts) + "."


def _term_in_words(config: JEPAConfig) -> str:
    if not config.has_term:
        return "Next-token prediction alone"
    start = f"Next-token prediction and {config.jepa_lambda:g} times the JEPA term"
    if config.jepa_term != "views":
        return f"{start}: Semantic Tube Prediction ({config.jepa_term})"
    distance = DISTANCES.get(config.jepa_distance, config.jepa_distance)
    count = f"{config.jepa_k or 'no'} [PRED] token{'' if config.jepa_k == 1 else 's'}"
    return f"{start}: {distance}; {TARGETS[config.jepa_target]}; {count}"


def words_of(results: Results) -> dict[str, str]:
    """Return what each word and sign in this report means."""
    baseline = results.baseline
    words = {
        "arm": "One way of training. All arms have the same weights at the start and the same rows, seed by seed.",
        "seed": "One run of each arm: it sets the weights at the start and the order of the rows.",
        "a ± b": "Mean and standard deviation over seeds.",
        "difference, points": f"The arm's mean minus that of {baseline}, in points of a hundred.",
        "95% interval": "That of a paired t-test over seeds: differences that other seeds might have given "
        "on these test rows. Other rows would move all seeds alike.",
        "p, Holm": "Chance of such a difference if there were none, corrected by Holm for the number of arms"
        + (" and test sets." if results.several_tests else "."),
        "p, sign flip": "The same without an assumption about the distribution. With n seeds it is at least 2/2^n.",
        "verdict": "A direction is named only where p, Holm is below 0.05 and the interval leaves out 0. “No "
        "difference shown” does not prove equality. A comparison with a control is one more condition for "
        "a gain; its p is not corrected.",
    }
    if (first := next(iter(results.main.comparisons), None)) and first.margin is not None:
        words[f"not worse by more than {first.margin_in_words}"] = (
            "p of the test against such a loss, corrected together with the others, is below 0.05: the interval lies "
            "above it."
        )
    words["step time, FLOPs"] = f"What a training step costs, as a multiple (×) of that of {baseline}."
    if results.costs_of_runs_differ:
        words["run FLOPs"] = "The FLOPs of all steps; for a teacher, also those of its training and its answers."
    words["a run takes"] = "Median over seeds of the training time, by the clock."
    if any(arm.alarms or arm.retrieval for arm in results.arms.values()):
        words |= _words_of_embeddings(results)
    return words


def _words_of_embeddings(results: Results) -> dict[str, str]:
    words = {
        "JEPA term": "Distance between the prediction from the text and the embedding of the code, as a mean over "
        "pairs. Its weight is λ (lambda).",
        "[PRED]": "A learned token after the text. The state at the last one is the prediction; without it, the text's "
        "own state.",
        "retrieval@k": "Share of rows whose code is among the k nearest of all codes of the test rows, by embedding.",
        "gap": "Mean cosine of matching views minus that of shuffled ones. 0: matching views are not closer than "
        "others.",
        "collapse": "All views have nearly the same embedding. The JEPA term is then small, although the model has "
        "learned nothing about the pairs. The alarm is raised after three such checks in a row. A run has recovered if "
        "its last check is not one of them. “Not watched”: no JEPA term, or fewer than three checks.",
    }
    if results.main.has_views_retrieval:
        words["of held-out views"] = "Retrieval of the other view of a row of views_file."
    return words
