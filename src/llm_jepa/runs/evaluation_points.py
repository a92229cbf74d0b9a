"""When to evaluate validation rows during training, if one evaluation takes as long as many steps.

Small models are evaluated ten times in a run (`eval_steps: 0.1`), which costs little. A run of a large model usually
has fewer training rows, and ten evaluations of hundreds of rows would take longer than the training. The rule counts
rows, not seconds, so that every seed, and a run that continues, is evaluated after the same steps. An evaluation does
not change the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

from llm_jepa.objective import Pair
from llm_jepa.training.arguments import BY_METRIC, JEPATrainingArguments

from .settings import RunConfig

SLOW = 15_000_000
"""Number of parameters above which there are fewer evaluations."""
MOST, MOST_SHARE = 10, 0.25
"""The largest number of evaluations in a run, and the largest share of the time of all steps that they may take."""

# The rough cost of a row in forward passes (our estimate; not measured): a training row also has a backward pass of
# twice the work, a monitored pair is two rows, and an answer is generated token by token.
TRAINED, EVALUATED, MONITORED, ANSWERED = 3, 1, 2, 3


def space_evaluations(
    arguments: JEPATrainingArguments,
    run: RunConfig,
    *,
    num_parameters: int,
    num_train: int,
    validation: Sequence[Pair],
    monitored: Sequence[Pair],
) -> list[str]:
    """Set `eval_steps` of a large model, in place, if the default evaluations would take too long.

    The evaluations have equal distances, and the last one is after the last step. A run that sets `eval_steps`, or
    whose training depends on its evaluations (`load_best_model_at_end`, a schedule by a metric), is not changed.

    Args:
        num_parameters: Number of parameters of the model.
        num_train: Number of training rows.
        validation: Rows whose loss is evaluated; the first `validation_generations` of them are answered.
        monitored: Rows of which the first `monitor_pairs` have their embeddings measured.

    Returns:
        A note for the run if anything was changed; else an empty list.
    """
    goes_by_them = arguments.load_best_model_at_end or arguments.lr_scheduler_type in BY_METRIC
    is_default = "eval_steps" not in run.settings and arguments.eval_strategy == "steps"
    if num_parameters <= SLOW or goes_by_them or not is_default:
        return []
    rows = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    num_steps = arguments.num_steps(num_train)
    answered = min(run.evaluation.validation_generations, len(validation))
    cost = EVALUATED * len(validation) + ANSWERED * answered
    cost += MONITORED * min(arguments.monitor_pairs, len(monitored))
    steps_each = cost / (TRAINED * rows)  # number of steps that take as long as one evaluation
    affordable = int(MOST_SHARE * num_steps / steps_each) if steps_each else MOST
    if affordable >= MOST:
        return []
    number = max((each for each in range(1, affordable + 1) if num_steps % each == 0), default=1)
    arguments.eval_steps = num_steps // number
    alarm = "" if number >= 3 or not run.jepa.uses_views else " The collapse alarm needs three evaluations."
    return [
        f"Validation rows are evaluated every {arguments.eval_steps} of {num_steps} steps. With "
        f"{num_parameters / 1e6:,.0f} million parameters one evaluation takes about as long as {steps_each:.0f} steps. "
        f"For more evaluations, set eval_steps, or lower validation_size, monitor_pairs or "
        f"validation_generations.{alarm}"
    ]
