"""The contract of Python API, command line and files, as outside checks use them. Extend it, never rename."""

from __future__ import annotations

import csv
import dataclasses
import inspect
import json
from pathlib import Path

import pytest
import torch
import yaml

import llm_jepa
from llm_jepa import LLMJEPA, FusedCollator, JEPAConfig, Pair, reference_loss
from llm_jepa.cli import main
from llm_jepa.evaluation.scorers import get_scorer
from llm_jepa.nanogpt import GPT, GPTConfig

ROOT = Path(__file__).parents[1]
SMALL = {
    **{"generate_train": 60, "generate_test": 8, "validation_size": 8, "validation_generations": 2, "vocab_size": 300},
    **{"max_steps": 3, "save_steps": 2, "per_device_train_batch_size": 8, "max_new_tokens": 4, "workers": 1},
    **{"arms": ["ntp", "jepa"], "use_cpu": True},
}
VERBS = (
    *("compare", "train", "evaluate", "analyze", "report", "export"),
    *("generate", "embed", "retrieve", "annotate", "reproduce"),
)
DATA_VERBS = ("make", "inspect", "check", "split")


def test_the_names_of_the_package():
    """What `from llm_jepa import ...` gives."""
    names = "JEPAConfig Pair FusedCollator LLMJEPA JEPAOutput reference_loss JEPATrainer JEPATrainingArguments"
    assert all(hasattr(llm_jepa, name) for name in names.split())


def test_the_settings_of_the_objective_and_their_defaults():
    """Each field by its name; a default that changes would change everybody's results."""
    expected = {
        **{"jepa_lambda": 1.0, "jepa_gamma": 1.0, "jepa_k": 1, "jepa_distance": "cosine", "jepa_target": "stop_grad"},
        **{"jepa_direction": "text_to_code", "jepa_pred_position": "append", "jepa_pred_tokens": "shared"},
        **{"jepa_loss_dropout": 0.0, "jepa_views": "prefix", "loss_on": "all"},
    }
    config = JEPAConfig(**expected, jepa_split=0.5)
    assert expected == {name: getattr(JEPAConfig(), name) for name in expected}
    assert config.jepa_split == 0.5


def test_a_batch_from_pairs_to_the_losses(tiny_model):
    """The example of README and docs: pairs, collator, model, output, reference."""
    config = JEPAConfig()
    pairs = [Pair(text_ids=[5, 6, 7], bridge_ids=[2], code_ids=[8, 9, 1]), Pair([4, 3], [6, 7, 1])]
    batch = FusedCollator(config, pad_token_id=0)(pairs)
    jepa = LLMJEPA(tiny_model("llama"), config)
    assert jepa.predictor is not None
    out, slow = jepa(batch), reference_loss(jepa, pairs)
    for each in (out, slow):
        assert type(each) is llm_jepa.JEPAOutput
        assert each.loss.shape == each.ce_loss.shape == each.jepa_loss.shape == ()
        assert each.text_pred.shape == each.code_emb.shape == (2, 32)
    torch.testing.assert_close(out.loss, slow.loss, atol=1e-5, rtol=0)
    off = LLMJEPA(tiny_model("llama"), JEPAConfig(jepa_lambda=0.0))
    plain = off(FusedCollator(off.config, pad_token_id=0)(pairs))
    assert torch.isnan(plain.jepa_loss) and torch.equal(plain.loss, plain.ce_loss)


def test_a_scorer_by_name():
    """`get_scorer(name)(output, gold)` has `.correct` and `.reason`."""
    verdict = get_scorer("number")("so it is\n#### 18", "#### 18")
    assert (verdict.correct, isinstance(verdict.reason, str)) == (True, True)


def test_the_nanogpt_drop_in():
    """nanoGPT's names and arguments, and what the drop-in adds to them."""
    fields = {each.name for each in dataclasses.fields(GPTConfig)}
    assert {"block_size", "vocab_size", "n_layer", "n_head", "n_embd", "dropout", "bias"} <= fields
    assert hasattr(GPT(GPTConfig(8, 16, 1, 2, 8)), "pred_token")
    assert list(inspect.signature(GPT.forward).parameters)[:3] == ["self", "idx", "targets"]
    assert list(inspect.signature(GPT.encode_last).parameters)[:2] == ["self", "idx"]
    assert list(inspect.signature(GPT.encode_last_with_pred).parameters)[:3] == ["self", "idx", "k_pred"]
    wanted = ["self", "idx", "targets", "jepa_lambda", "jepa_k", "jepa_split"]
    assert list(inspect.signature(GPT.jepa_loss).parameters)[:6] == wanted


@pytest.mark.parametrize(
    "argv", [[verb] for verb in (*VERBS, "plan")] + [["data", part] for part in ("make", "inspect", "check", "split")]
)
def test_the_verbs_of_the_command_line(argv, capsys):
    """Each has a help text and exits with 0; a call without what it needs, or with an unknown flag, exits with 2."""
    with pytest.raises(SystemExit) as stop:
        main([*argv, "--help"])
    assert stop.value.code == 0 and "usage: llm-jepa" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main([*argv, "--no-such-flag"])
    assert stop.value.code == 2


def test_the_demo_is_a_config():
    """`configs/demo.yaml` has the keys that outside checks set."""
    config = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
    assert {"max_steps", "seeds", "arms"} <= config.keys()


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two arms and two seeds."""
    folder = tmp_path_factory.mktemp("contract")
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    assert main(["compare", str(folder / "small.yaml"), "--out", str(folder / "out"), "--seeds", "82,23"]) == 0
    return folder / "out"


def test_the_files_of_an_experiment_and_of_a_run(experiment):
    """Every name that something else may read."""
    for name in ("experiment.yaml", "results.json", "results.csv", "report.html"):
        assert (experiment / name).is_file()
    for arm in ("ntp", "jepa"):
        run = experiment / f"{arm}-s82"
        for name in ("config.yaml", "environment.json", "metrics.jsonl", "eval.json", "predictions.jsonl", "DONE"):
            assert (run / name).is_file()
        assert (run / "model" / "config.json").is_file()
        assert len((run / "predictions.jsonl").read_text().splitlines()) == 8
    assert (experiment / "jepa-s82" / "model" / "jepa.safetensors").is_file()
    with (experiment / "results.csv").open() as file:
        assert len(list(csv.reader(file))) > 1


def test_the_keys_of_the_results(experiment):
    """`results.json`: arms with every seed, comparisons with interval, p-values and a verdict, and cost."""
    results = json.loads((experiment / "results.json").read_text())
    assert results["metric"] == "exact_match"
    for arm in ("ntp", "jepa"):
        assert {"seeds", "mean", "std", "n"} <= results["arms"][arm].keys()
        assert set(results["arms"][arm]["seeds"]) == {"82", "23"} and results["arms"][arm]["n"] == 2
    (comparison,) = results["comparisons"]
    assert (comparison["arm"], comparison["baseline"]) == ("jepa", "ntp")
    assert {"delta", "ci95", "p_value", "p_holm"} <= comparison.keys()
    assert comparison["ci95"] is None or len(comparison["ci95"]) == 2  # None where all differences are equal
    assert comparison["verdict"] in ("better", "worse", "no difference shown")
    assert {"step_time_ratio", "flops_ratio"} <= results["cost"]["jepa"].keys()


def test_the_last_line_is_one_json_object(experiment, capsys, tmp_path):
    """Of commands that do something; that of `data check` counts leaks and duplicates."""
    row = json.dumps({"text": "a line", "code": "x"})
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(f"{row}\n{row}\n" + json.dumps({"text": name, "code": "y"}) + "\n")
    main(["data", "check", str(tmp_path / "train.jsonl"), str(tmp_path / "test.jsonl")])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["leaked_pairs"] > 0 and found["duplicate_rows"] > 0
    assert main(["report", str(experiment)]) == 0
    assert isinstance(json.loads(capsys.readouterr().out.splitlines()[-1]), dict)
