"""The training loop keeps the objective's promises: scale, baseline, resume, no step on a loss that is not finite."""

from __future__ import annotations

import math
from itertools import chain

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from datasets import Dataset, DatasetDict
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LambdaLR
from transformers import BloomConfig, BloomForCausalLM, Trainer, TrainerCallback, TrainingArguments

from llm_jepa.data.encoded_pairs import EncodedPairs
from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig
from llm_jepa.objective.documents import IGNORED
from llm_jepa.objective.schedule import is_dropped
from llm_jepa.training.arguments import JEPATrainingArguments
from llm_jepa.training.saving import load_jepa, save_jepa
from llm_jepa.training.trainer import MAX_SKIPPED, OVERRIDDEN, JEPATrainer, NonFiniteLossError


class Gradients(TrainerCallback):
    """Keeps the gradients of each optimizer step, as the optimizer gets them."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append(gradients(model))


def gradients(module):
    return [each.grad.clone() for each in module.parameters() if each.grad is not None]


def weights(module):
    return [each.detach().clone() for each in module.parameters()]


def assert_equal(first, second):
    assert len(first) == len(second)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def assert_near(first, second, tolerance):
    for one, other in zip(first, second, strict=True):
        assert (one - other).norm() <= tolerance * other.norm().clamp(min=1e-3)


def logged(trainer, key):
    return [line[key] for line in trainer.state.log_history if key in line]


def record_batches(trainer):
    """Return a list that gets each batch that the model is trained on."""
    seen = []
    trainer.jepa.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]) if module.training else None)
    return seen


def named(pairs):
    for number, pair in enumerate(pairs):
        pair.source = f"train.jsonl:{number + 1}"
    return pairs


# ---- transformers' Trainer ----


def test_every_trainer_method_that_we_override_still_exists():
    """A release that renames one would call its own, and train without our scale, order or checkpoints, in silence."""
    assert [name for name in OVERRIDDEN if not callable(getattr(Trainer, name, None))] == []
    kinds = JEPATrainer.__mro__[: JEPATrainer.__mro__.index(Trainer)]
    ours = {name for kind in kinds for name in vars(kind) if not name.startswith("__")}
    assert ours & {name for name in dir(Trainer) if callable(getattr(Trainer, name))} == set(OVERRIDDEN)


# ---- the scale of a step ----

OBJECTIVE = {"jepa_lambda": 2.0, "jepa_gamma": 0.5, "jepa_k": 2}


@pytest.mark.parametrize(
    "objective",
    [{}, {"jepa_target": "shared", "jepa_distance": "mse"}, {"jepa_target": "ema", "jepa_ema_decay": 0.5}],
    ids=["stop_grad", "shared", "ema"],
)
@pytest.mark.parametrize(("micro", "accumulation"), [(8, 1), (4, 2), (2, 4), (1, 8)])
def test_any_split_of_a_step_equals_a_plain_loop_over_whole_batches(
    micro, accumulation, objective, make_jepa, make_trainer, make_pairs
):
    """Promise 2: losses, gradients and weights of five steps are those of LLMJEPA, backward, AdamW on 8 rows each."""
    pairs, objective = make_pairs(40, seed=3), OBJECTIVE | objective
    plain = make_jepa(**objective)
    optimizer = torch.optim.AdamW([each for each in plain.parameters() if each.requires_grad], lr=1e-3, weight_decay=0)
    collate, losses, expected = FusedCollator(plain.config, pad_token_id=0), [], []
    for start in range(0, 40, 8):
        loss = plain(collate(pairs[start : start + 8])).loss
        loss.backward()
        clip_grad_norm_(plain.parameters(), 1.0)
        losses.append(loss.item())
        expected.append(gradients(plain))
        optimizer.step()
        optimizer.zero_grad()
        plain.update_target()

    seen = Gradients()
    trainer = make_trainer(
        make_jepa(**objective),
        pairs,
        callbacks=[seen],
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        train_sampling_strategy="sequential",
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        warmup_steps=0,
        num_train_epochs=1,
    )
    trainer.train()
    assert logged(trainer, "loss") == pytest.approx(losses, abs=2e-6)
    assert len(seen.steps) == 5
    assert_near(seen.steps[0], expected[0], 5e-6)
    for step, each in zip(seen.steps, expected, strict=True):
        assert_near(step, each, 1e-4)  # five steps of AdamW carry rounding on
    assert_near(weights(trainer.jepa), weights(plain), 1e-5)


@pytest.mark.parametrize(
    "objective", [{"jepa_lambda": 0.0}, {}, {"jepa_target": "shared"}], ids=["plain", "jepa", "shared"]
)
@pytest.mark.parametrize(("micro", "accumulation"), [(8, 1), (4, 2)])
def test_packing_takes_the_same_steps(micro, accumulation, objective, make_jepa, make_trainer, make_mixed_pairs):
    """Five steps on packed rows, whole and accumulated, end at the losses and weights of five on padded rows."""
    losses, final, rows = {}, {}, {}
    for packing in (False, True):
        trainer = make_trainer(
            make_jepa(**objective),
            make_mixed_pairs(40, seed=3),
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=accumulation,
            train_sampling_strategy="sequential",
            learning_rate=1e-3,
            num_train_epochs=1,
            packing=packing,
            **({"pack_length": 60} if packing else {}),
        )
        batches = record_batches(trainer)
        trainer.train()
        losses[packing], final[packing] = logged(trainer, "loss"), weights(trainer.jepa)
        rows[packing] = sum(len(batch.rows.input_ids) for batch in batches)
    assert rows[True] < 0.7 * rows[False] == 0.7 * 40
    assert losses[True] == pytest.approx(losses[False], abs=1e-5) and len(losses[True]) == 5
    assert_near(final[True], final[False], 1e-4)


def test_a_packed_run_resumes_as_itself_alone(make_jepa, make_trainer, make_pairs):
    """Packing is a fact of a run: rows laid out otherwise give other bits."""
    facts = [
        make_trainer(make_jepa(), make_pairs(4), packing=packing, train_sampling_strategy="random").facts()
        for packing in (False, True)
    ]
    assert facts[0] != facts[1]


def test_without_the_counts_of_a_step_the_loss_would_be_wrong(make_jepa, make_trainer, make_pairs):
    """The control of the test above: micro-batches that each take their own mean add up to several times the loss."""

    class Forgetful(JEPATrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return super().compute_loss(model, inputs, return_outputs, None)

    first = {}
    for kind in (JEPATrainer, Forgetful):
        trainer = make_trainer(
            make_jepa(), make_pairs(8), kind=kind, per_device_train_batch_size=2, gradient_accumulation_steps=4
        )
        trainer.args.max_steps = 1
        trainer.train()
        first[kind] = logged(trainer, "loss")[0]
    assert first[Forgetful] == pytest.approx(4 * first[JEPATrainer], rel=0.1)


def test_a_last_step_with_fewer_rows_is_a_mean_over_its_own_rows(make_jepa, make_trainer, make_pairs):
    """Seven rows, four a step in micro-batches of two: the second step's terms are means over its three rows."""
    pairs = make_pairs(7, seed=5)
    trainer = make_trainer(
        make_jepa(),
        pairs,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        train_sampling_strategy="sequential",
        num_train_epochs=1,
        learning_rate=0.0,
        weight_decay=0.0,
    )
    trainer.train()
    collate = FusedCollator(trainer.jepa.config, pad_token_id=0)
    parts = [trainer.jepa(collate(pairs[:4])), trainer.jepa(collate(pairs[4:]))]
    for name in ("loss", "ce_loss", "jepa_loss"):
        assert logged(trainer, name) == pytest.approx([getattr(each, name).item() for each in parts], abs=1e-5)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_gradient_checkpointing_changes_no_weight(make_jepa, make_trainer, make_pairs):
    """Activations are computed twice instead of kept; the step is the same."""
    final = {}
    for switched_on in (False, True):
        trainer = make_trainer(
            make_jepa(jepa_target="shared"), make_pairs(8), max_steps=3, gradient_checkpointing=switched_on
        )
        trainer.train()
        assert trainer.jepa.model.model.layers[0].gradient_checkpointing == switched_on
        final[switched_on] = weights(trainer.jepa)
    assert_near(final[True], final[False], 1e-6)


# ---- the baseline ----


@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_lambda_zero_equals_a_bare_loop_with_the_models_own_loss(
    model, tiny_model, make_jepa, make_trainer, make_pairs
):
    """Promise 3: after 20 steps with warm-up, cosine schedule and clipping, all weights have the same bits."""
    steps, warmup, rate = 20, 4, 1e-2
    trainer = make_trainer(
        make_jepa(model, jepa_lambda=0.0),
        make_pairs(24),
        max_steps=steps,
        warmup_steps=warmup,
        learning_rate=rate,
        max_grad_norm=0.5,
    )
    batches = record_batches(trainer)
    trainer.train()
    assert len(batches) == steps and min(logged(trainer, "grad_norm")) > 0.5

    bare = tiny_model(model)

    def schedule(step):
        progress = (step - warmup) / (steps - warmup)
        return step / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * progress))

    optimizer = torch.optim.AdamW(bare.parameters(), lr=rate, weight_decay=0.0, fused=True)
    scheduler = LambdaLR(optimizer, schedule)
    for batch, loss in zip(batches, logged(trainer, "loss"), strict=True):
        rows = batch.rows
        labels = rows.input_ids.masked_fill(~rows.real, IGNORED)
        expected = bare(input_ids=rows.input_ids, attention_mask=rows.real.long(), labels=labels).loss
        assert expected.item() == loss
        expected.backward()
        clip_grad_norm_(bare.parameters(), 0.5)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    assert_equal(weights(trainer.jepa.model), weights(bare))


def test_looking_at_held_out_rows_draws_no_random_number(make_jepa, make_trainer, make_pairs):
    """With dropout on, a run that is watched at every step ends in the bits of one that is not."""
    final = {}
    for held_out in ((), make_pairs(6, seed=8)):
        jepa = make_jepa("gpt2", changes={"resid_pdrop": 0.2}, jepa_target="ema")
        trainer = make_trainer(
            jepa, make_pairs(12), held_out, max_steps=5, seed=4, extra_metrics=lambda: {"score": 0.5}
        )
        trainer.train()
        final[bool(held_out)] = weights(trainer.jepa)
        assert bool(logged(trainer, "eval_ce_loss")) == bool(held_out)
    assert_equal(final[True], final[False])


def test_a_run_without_held_out_rows_needs_no_other_setting(make_jepa, make_pairs, tmp_path):
    """The defaults ask for looks at held-out rows; where there are none, training goes its way."""
    args = JEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True, max_steps=2)
    trainer = JEPATrainer(make_jepa(), args, make_pairs(4), pad_token_id=0)
    trainer.train()
    assert trainer.state.global_step == 2


def test_each_epoch_has_each_row_once_and_an_order_of_its_own(make_jepa, make_trainer, make_pairs):
    """Batches are whole where rows allow it, and another epoch has other batches."""
    trainer = make_trainer(make_jepa(), named(make_pairs(18)), num_train_epochs=3)
    batches = record_batches(trainer)
    trainer.train()
    assert [batch.num_pairs for batch in batches] == [4, 4, 4, 4, 2] * 3
    epochs = [[batch.sources for batch in batches[start : start + 5]] for start in (0, 5, 10)]
    for epoch in epochs:
        assert sorted(chain.from_iterable(epoch)) == sorted(pair.source for pair in trainer.train_dataset)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


# ---- resume ----


RESUMED = {
    "jepa_target": "ema",
    "jepa_ema_decay": 0.8,
    "jepa_loss_dropout": 0.5,
    "jepa_pred_tokens": "distinct",
    "jepa_k": 2,
}
DROPOUT = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}
TERMS = ("step", "loss", "ce_loss", "jepa_loss", "lambda_eff", "grad_norm", "learning_rate", "eval_ce_loss")


def terms(trainer):
    """What the log says of each step, times left out; nan as text, so that equal lines compare equal."""
    lines = [{key: line[key] for key in TERMS if key in line} for line in trainer.state.log_history]
    return [str(line) for line in lines if len(line) > 1]


@pytest.mark.parametrize(("accumulation", "steps"), [(1, 9), (3, 5)])
def test_resuming_from_any_checkpoint_equals_never_stopping(accumulation, steps, make_jepa, make_trainer, make_pairs):
    """Promise 5: with dropout, loss dropout, a slow copy and several epochs, weights and log have the same bits.

    Nine rows in batches of two are five micro-batches an epoch, the last of one row. The last step lies in the
    midst of an epoch, and its own checkpoint (a kill during the final evaluation) trains nothing more.
    """

    def build(out):
        jepa = make_jepa("gpt2", seed=11, changes=DROPOUT, **RESUMED)
        if out != "whole":  # what a new process starts from does not matter
            for each in jepa.parameters():
                each.data.fill_(0.01)
        return make_trainer(
            jepa,
            make_pairs(9, seed=2),
            make_pairs(4, seed=8),
            out=out,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=accumulation,
            max_steps=steps,
            eval_steps=4,
            save_steps=1 if out == "whole" else None,
            seed=11,
        )

    whole = build("whole")
    whole.train()
    lambdas = logged(whole, "lambda_eff")
    assert 0.0 in lambdas and 1.0 in lambdas  # loss dropout dropped some steps and kept some
    folders = [f"{whole.args.output_dir}/checkpoint-{step}" for step in range(1, steps + 1)]
    for folder in folders:
        resumed = build("resumed")
        resumed.train(resume_from_checkpoint=folder)
        assert resumed.state.global_step == steps
        assert_equal(weights(resumed.jepa), weights(whole.jepa))
        assert terms(resumed) == terms(whole)
    fresh = build("fresh")
    fresh.train()
    assert terms(fresh) != terms(whole)  # the comparison can fail


def test_a_checkpoint_between_two_log_lines_loses_no_step_of_the_log(make_jepa, make_trainer, make_pairs):
    """Lines every four steps, checkpoints every three: the resumed log is the log of the whole run."""

    def build(out):
        return make_trainer(
            make_jepa(seed=5, jepa_loss_dropout=0.4),
            make_pairs(8),
            out=out,
            max_steps=10,
            logging_steps=4,
            save_steps=3,
        )

    whole = build("whole")
    whole.train()
    for step in (3, 6, 9):
        resumed = build("resumed")
        resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-{step}")
        assert terms(resumed) == terms(whole)


# ---- loss dropout ----


def test_loss_dropout_draws_once_an_optimizer_step(make_jepa, make_trainer, make_pairs):
    """All micro-batches of a step drop the JEPA term or none does, as (seed, step) says."""
    steps = 8
    jepa = make_jepa(seed=3, jepa_loss_dropout=0.5)
    weighed = []
    jepa.register_forward_hook(lambda module, inputs, output: weighed.append(output.lambda_eff))
    trainer = make_trainer(
        jepa, make_pairs(12), per_device_train_batch_size=1, gradient_accumulation_steps=4, max_steps=steps
    )
    trainer.train()
    expected = [0.0 if is_dropped(0.5, 3, step) else 1.0 for step in range(steps)]
    assert weighed == [each for each in expected for _ in range(4)]
    assert logged(trainer, "lambda_eff") == expected and 0.0 < sum(expected) < steps


# ---- what is not finite ----


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_rows(
    make_jepa, make_trainer, make_pairs, raises
):
    """B1: one poisoned row in the second step; its rows are named, and no weight moves."""
    trainer = make_trainer(
        make_jepa(),
        named(make_pairs(8)),
        train_sampling_strategy="sequential",
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=4,
    )
    after_first = []

    def spoil(module, inputs, output):
        if "train.jsonl:7" in inputs[0].sources:
            output.loss = output.loss * torch.nan
        return output

    class Poison(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            after_first.append(weights(trainer.jepa))
            if state.global_step == 1:
                trainer.jepa.register_forward_hook(spoil)

    trainer.add_callback(Poison())
    with raises("loss_not_finite", "step 2", "nan", "train.jsonl:7, train.jsonl:8", exit_code=1):
        trainer.train()
    assert len(after_first) == 1
    assert_equal(weights(trainer.jepa), after_first[0])


def test_a_gradient_that_is_not_finite_stops_before_the_step(make_jepa, make_trainer, make_pairs, raises):
    """B1: the loss is finite, its gradient is not; the run stops with the weights of the step before."""
    jepa = make_jepa()
    before = weights(jepa)
    jepa.predictor.embedding.register_hook(lambda gradient: gradient * torch.inf)
    trainer = make_trainer(jepa, make_pairs(8), max_steps=4)
    with raises("gradient_not_finite", "step 1", exit_code=1) as caught:
        trainer.train()
    assert isinstance(caught.value, NonFiniteLossError) and ("nan" in str(caught.value) or "inf" in str(caught.value))
    assert_equal(weights(jepa), before)


@pytest.fixture
def overflowing(monkeypatch):
    """fp16 with its scaler, on a CPU; the scale of 2^32 that it begins with overflows until it has been halved."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**32, growth_interval=2000)
    initialise = AcceleratedOptimizer.__init__

    def initialised(self, optimizer, device_placement=True, **_):
        initialise(self, optimizer, device_placement, scaler)

    def lend(trainer):
        trainer.accelerator.scaler, trainer.accelerator.native_amp = scaler, True
        trainer.accelerator.state._mixed_precision = "fp16"
        return scaler

    monkeypatch.setattr(AcceleratedOptimizer, "__init__", initialised)
    return lend


def test_a_step_that_overflows_in_fp16_is_left_out_and_the_run_goes_on(
    overflowing, make_jepa, make_trainer, make_pairs
):
    """What the scaler does while it looks for its scale; the slow copy waits for steps that are taken."""
    jepa = make_jepa(jepa_target="ema", jepa_ema_decay=0.5)
    trainer = make_trainer(jepa, make_pairs(8), max_steps=30)
    scaler = overflowing(trainer)
    updates = []
    jepa.update_target = lambda: updates.append(1)
    trainer.train()
    skipped = round(32 - math.log2(scaler.get_scale()))
    assert 0 < skipped < 30 and len(updates) == 30 - skipped
    norms = [line["grad_norm"] for line in trainer.state.log_history if "grad_norm" in line]
    assert sum(not math.isfinite(norm) for norm in norms) == skipped


def test_a_gradient_that_overflows_whatever_the_scale_ends_the_run(
    overflowing, make_jepa, make_trainer, make_pairs, raises
):
    """Left out again and again, the run would train nothing for ever."""
    jepa = make_jepa()
    jepa.predictor.embedding.register_hook(lambda gradient: gradient * torch.inf)
    trainer = make_trainer(jepa, make_pairs(8), max_steps=100)
    overflowing(trainer)
    with raises("gradient_not_finite", f"step {MAX_SKIPPED + 1} ", exit_code=1):
        trainer.train()


# ---- models that a mask does not reach ----


def test_a_plain_run_is_not_packed_nor_looked_at_where_the_mask_is_not_followed(
    make_trainer, make_pairs, caplog, raises
):
    """ALiBi counts distances of the row: packed rows would be wrong, and so would the monitors' views."""
    size = {"vocab_size": 64, "hidden_size": 32, "n_layer": 1, "n_head": 2}
    torch.manual_seed(0)
    jepa = LLMJEPA(BloomForCausalLM(BloomConfig(**size)), JEPAConfig(jepa_lambda=0.0))
    with raises("model_not_supported", "packing=True"):
        make_trainer(jepa, make_pairs(8), packing=True, max_steps=1)
    trainer = make_trainer(jepa, make_pairs(8), make_pairs(8, seed=1), max_steps=1)
    trainer.train()
    assert "embeddings of views are not measured" in caplog.text
    looks = [line for line in trainer.state.log_history if "eval_ce_loss" in line]
    assert looks and not any(key.startswith("monitor/") for line in looks for key in line)


# ---- what is logged ----


def test_the_named_terms_add_up_to_the_loss(make_jepa, make_trainer, make_pairs):
    """gamma * ce_loss + lambda_eff * jepa_loss = loss in each line, over several steps and with dropped ones."""
    jepa = make_jepa(jepa_lambda=3.0, jepa_gamma=0.7, jepa_loss_dropout=0.3)
    trainer = make_trainer(jepa, make_pairs(16), max_steps=12, logging_steps=4, gradient_accumulation_steps=2)
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert len(lines) == 3
    for line in lines:
        assert line["loss"] == pytest.approx(0.7 * line["ce_loss"] + line["lambda_eff"] * line["jepa_loss"], abs=1e-5)
        assert 0 < line["lambda_eff"] <= 3.0 and line["tokens_per_s"] > 0


def test_the_last_steps_are_logged_too(make_jepa, make_trainer, make_pairs):
    """A run of five steps with a line every three has a line for the last two."""
    trainer = make_trainer(make_jepa(), make_pairs(8), max_steps=5, logging_steps=3)
    trainer.train()
    assert [line["step"] for line in trainer.state.log_history if "ce_loss" in line] == [3, 5]


def test_plain_training_reports_no_jepa_loss(make_jepa, make_trainer, make_pairs):
    """At jepa_lambda 0 nothing was encoded, so nothing is made up: jepa_loss is nan, and loss is ce_loss."""
    trainer = make_trainer(make_jepa(jepa_lambda=0.0), make_pairs(8), make_pairs(4, seed=8), max_steps=2)
    trainer.train()
    assert all(math.isnan(value) for value in logged(trainer, "jepa_loss"))
    assert logged(trainer, "loss") == pytest.approx(logged(trainer, "ce_loss"))
    assert not logged(trainer, "eval_jepa_loss")


@pytest.mark.parametrize("jepa_lambda", [0.0, 1.0])
def test_held_out_rows_are_looked_at_in_every_arm(jepa_lambda, make_jepa, make_trainer, make_pairs):
    """Monitors appear with and without a JEPA term; eval_ce_loss is the mean over all labelled tokens."""
    held_out = make_pairs(7, seed=8)
    trainer = make_trainer(
        make_jepa(jepa_lambda=jepa_lambda, jepa_k=2),
        make_pairs(8),
        held_out,
        max_steps=2,
        per_device_eval_batch_size=3,
        extra_metrics=lambda: {"exact_match": 0.25},
    )
    trainer.train()
    look = [line for line in trainer.state.log_history if "eval_ce_loss" in line][-1]
    monitors = {"matched_cosine", "shuffled_cosine", "gap", "retrieval@1", "feature_std", "effective_rank"}
    assert {f"monitor/{name}" for name in monitors} <= look.keys()
    assert look["eval_exact_match"] == 0.25 and ("eval_jepa_loss" in look) == (jepa_lambda > 0)
    batch = FusedCollator(trainer.jepa.config, pad_token_id=0)(held_out)
    assert look["eval_ce_loss"] == pytest.approx(trainer.jepa.eval()(batch).ce_loss.item(), abs=1e-5)


def test_steps_are_timed_and_looks_are_not(make_jepa, make_trainer, make_pairs):
    """The timer has one time a step, whatever the accumulation; its summary leaves the first three out."""
    trainer = make_trainer(
        make_jepa(), make_pairs(8), make_pairs(4, seed=8), max_steps=5, gradient_accumulation_steps=2
    )
    trainer.train()
    assert len(trainer.step_timer.times_s) == 5
    assert trainer.step_timer.summary()["num_steps_timed"] == 2


def test_steps_with_and_without_a_term_are_timed_apart(make_jepa, make_trainer, make_pairs):
    """By what the steps were, not by the dropout's rate; the median of all would be that of one kind."""
    trainer = make_trainer(make_jepa(jepa_loss_dropout=0.5), make_pairs(8), max_steps=20)
    trainer.train()
    timer = trainer.step_timer
    dropped = [trainer.jepa.drops_term(step) for step in range(20)]
    timer.times_s = [1.0 if each else 2.0 for each in dropped]
    kept = dropped[timer.WARM_UP :]
    summary = timer.summary()
    assert 0 < sum(kept) < len(kept)
    assert (summary["full_step_time_s"], summary["dropped_step_time_s"]) == (2.0, 1.0)
    assert summary["mean_step_time_s"] == pytest.approx(2 - sum(kept) / len(kept))


def test_without_loss_dropout_there_is_one_time(make_jepa, make_trainer, make_pairs):
    trainer = make_trainer(make_jepa(), make_pairs(8), max_steps=5)
    trainer.train()
    assert trainer.step_timer.summary().keys() == {"step_time_s", "mean_step_time_s", "num_steps_timed"}


# ---- collapse ----

COLLAPSING = {"jepa_gamma": 0.0, "jepa_target": "shared"}  # nothing but the distance: every view becomes the same


def collapsing(make_jepa, make_trainer, make_pairs, **arguments):
    settings = {"learning_rate": 3e-2, "max_steps": 10, "save_steps": 1, **arguments}
    return make_trainer(make_jepa(**COLLAPSING), make_pairs(32), make_pairs(32, seed=8), **settings)


def test_a_collapse_raises_the_alarm_and_the_run_goes_on(make_jepa, make_trainer, make_pairs, caplog):
    """B5: the alarm says from which step on; the baseline, which trains no view, is never watched."""
    trainer = collapsing(make_jepa, make_trainer, make_pairs, save_steps=None)
    trainer.train()
    assert trainer.alarm.alarmed and trainer.state.global_step == 10
    assert "Collapse alarm." in caplog.text and "collapsed" in trainer.alarm.reason
    baseline = make_trainer(make_jepa(jepa_lambda=0.0), make_pairs(32), make_pairs(32, seed=8), max_steps=6)
    baseline.train()
    assert not baseline.alarm.alarmed and baseline.alarm.streak == 0


def test_the_alarm_of_a_resumed_run_is_that_of_the_whole_run(make_jepa, make_trainer, make_pairs):
    """Resumed before, amid and after the looks that raise it, the alarm names the same first step and reason."""
    whole = collapsing(make_jepa, make_trainer, make_pairs)
    whole.train()
    first = whole.alarm.first_step
    for step in (first - 1, first + 1, first + 3):
        resumed = collapsing(make_jepa, make_trainer, make_pairs, out="resumed", save_steps=None)
        resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-{step}")
        assert resumed.alarm == whole.alarm


def test_a_trainer_without_a_pad_id_says_so(make_jepa, make_pairs, tmp_path, raises):
    with raises("setting_missing", "pad_token_id"):
        JEPATrainer(make_jepa(), JEPATrainingArguments(output_dir=str(tmp_path)), make_pairs(2))


@pytest.mark.parametrize("name", ["train_dataset", "eval_dataset", "view_dataset", "monitor_dataset"])
def test_rows_that_are_no_pairs_are_refused_when_the_trainer_is_made(name, make_jepa, make_pairs, tmp_path, raises):
    """A Dataset, its rows, its splits, encoded pairs without `.pairs`, something without a length: one clear error."""
    rows = Dataset.from_list([{"text": "a", "code": "b"}])
    others = [rows, list(rows), DatasetDict({"train": rows}), EncodedPairs(make_pairs(2)), iter(make_pairs(2))]
    args = JEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    for wrong in [*others, rows.to_iterable_dataset(), [*make_pairs(1), {"text": "a"}], "train.jsonl"]:
        with raises("wrong_type", f"{name} is of type {type(wrong).__name__}", "load_data", "PairEncoder"):
            JEPATrainer(make_jepa(), args, **{"train_dataset": make_pairs(2), name: wrong}, pad_token_id=0)


def test_a_stream_no_rows_and_other_arguments_are_refused_too(make_jepa, make_pairs, tmp_path, raises):
    """A stream of torch, None, and the arguments of plain transformers."""
    args = JEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True)

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(make_pairs(2))

    for wrong in (Stream(), None):
        with raises("wrong_type", "train_dataset", type(wrong).__name__):
            JEPATrainer(make_jepa(), args, wrong, pad_token_id=0)
    for arguments in (TrainingArguments(str(tmp_path), use_cpu=True, report_to="none"), None):
        with raises("wrong_type", "JEPATrainingArguments"):
            JEPATrainer(make_jepa(), arguments, make_pairs(2), pad_token_id=0)


@pytest.mark.parametrize("pad", [-100, 64])
def test_a_pad_id_that_the_model_lacks_is_refused(pad, make_jepa, make_pairs, tmp_path, raises):
    args = JEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    with raises("value_out_of_range", f"pad_token_id={pad}"):
        JEPATrainer(make_jepa(), args, make_pairs(2), pad_token_id=pad)


@pytest.mark.parametrize("jepa_lambda", [0.0, 1.0])
def test_evaluate_measures_the_rows_that_it_is_given(jepa_lambda, make_jepa, make_trainer, make_pairs):
    """They are no check of the collapse alarm, which follows the run's own rows."""
    jepa, own, other = make_jepa(jepa_lambda=jepa_lambda), make_pairs(6), make_pairs(6, seed=5)
    trainer, expected = (make_trainer(jepa, make_pairs(8), rows) for rows in (own, other))
    trainer.state.global_step = 1
    found = trainer.evaluate(other)
    assert trainer.alarm.num_looks == 0
    assert found == expected.evaluate() != trainer.evaluate()
    assert "monitor/gap" not in make_trainer(make_jepa(jepa_lambda=0.0), own).evaluate(other)


def test_input_tokens_are_counted(make_jepa, make_trainer, make_pairs):
    pairs = make_pairs(4)
    trainer = make_trainer(make_jepa(jepa_k=2), pairs, max_steps=1, include_num_input_tokens_seen="non_padding")
    trainer.train()
    assert trainer.state.num_input_tokens_seen == sum(len(pair) + 2 for pair in pairs)


def test_a_distance_set_by_hand_is_not_recorded_as_another(make_jepa, make_pairs, make_trainer, tmp_path, raises):
    """Neither is one that the config was given after the objective was built. A weight is read at each step."""

    def by_hand(jepa):
        jepa.distance = lambda pred, target: (pred - target).abs().mean(-1)

    def by_config(jepa):
        jepa.config.jepa_distance = "l2"

    for change, code, value in (
        (by_hand, "distance_without_name", "'cosine'"),
        (by_config, "config_changed", "jepa_distance"),
    ):
        jepa = make_jepa()
        change(jepa)
        with raises(code, value):
            save_jepa(jepa, tmp_path / "saved")
        with raises(code, value):
            make_trainer(jepa, make_pairs(4))
    assert not (tmp_path / "saved").exists()
    jepa = make_jepa()
    jepa.config.jepa_lambda = 0.5
    save_jepa(jepa, tmp_path / "saved")
    assert load_jepa(tmp_path / "saved").config.jepa_lambda == 0.5


# ---- rows without views ----


@pytest.mark.parametrize("packing", [False, True])
def test_held_out_rows_without_views_are_looked_at_for_cross_entropy_alone(
    packing, make_jepa, make_trainer, make_mixed_pairs, make_pairs
):
    """Monitors are over the rows that have views; where there is none, nothing is said of them, and nothing is nan."""
    bare = make_pairs(4)
    for pair in bare:
        pair.use_jepa = False
    for held_out, has_views in ((make_mixed_pairs(10), True), (bare, False)):
        trainer = make_trainer(make_jepa(), make_mixed_pairs(8), held_out, max_steps=1, packing=packing)
        metrics = trainer.evaluate()
        assert math.isfinite(metrics["eval_ce_loss"])
        assert ("monitor/gap" in metrics) == ("eval_jepa_loss" in metrics) == has_views


def test_a_step_without_any_views_is_a_step_of_cross_entropy(make_jepa, make_trainer, make_pairs):
    """The term is 0 in the log, and the run goes on (B4)."""
    pairs = make_pairs(4)
    for pair in pairs:
        pair.use_jepa = False
    trainer = make_trainer(make_jepa(), pairs, max_steps=2)
    trainer.train()
    assert logged(trainer, "jepa_loss") == [0, 0]
    assert logged(trainer, "loss") == pytest.approx(logged(trainer, "ce_loss"))


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("packing", [False, True])
def test_mixed_precision_trains_rendered_and_packed_rows(packing, make_jepa, make_trainer, make_mixed_pairs):
    """bf16 autocast with gradient checkpointing and accumulation: the first loss is float32's to its rounding."""
    first = {}
    for precision in ("float32", "bf16"):
        trainer = make_trainer(
            make_jepa(jepa_target="shared"),
            make_mixed_pairs(16),
            precision=precision,
            packing=packing,
            train_sampling_strategy="sequential",
            gradient_accumulation_steps=2,
            gradient_checkpointing=precision == "bf16",
            max_steps=2,
        )
        trainer.train()
        first[precision] = logged(trainer, "loss")[0]
    assert first["bf16"] == pytest.approx(first["float32"], rel=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"jepa_lambda": 0}, {}, {"jepa_target": "shared", "jepa_distance": "infonce"}])
def test_the_loss_curve_in_bf16_is_that_of_float32_within_2_percent(changes, make_jepa, make_trainer, make_pairs):
    """50 steps of autocast on the CPU, every step's loss compared: rounding does not add up."""
    curves = {}
    for precision in ("float32", "bf16"):
        settings = {"precision": precision, "max_steps": 50, "learning_rate": 1e-3, "out": precision}
        trainer = make_trainer(make_jepa(**changes), make_pairs(32), **settings)
        trainer.train()
        curves[precision] = logged(trainer, "loss")
    assert curves["bf16"] != curves["float32"]
    assert curves["bf16"] == pytest.approx(curves["float32"], rel=2e-2)
