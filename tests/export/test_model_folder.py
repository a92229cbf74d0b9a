"""A run's model as a folder that stands alone: plain transformers serves it, and its card tells all of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm_jepa.cli import main
from llm_jepa.data.tokenizer import train_tokenizer
from llm_jepa.export import model_folder
from llm_jepa.export.export_run import export_run, is_run
from llm_jepa.export.serving import Exported, python_snippet, server_commands
from llm_jepa.runs.run import train_run
from llm_jepa.runs.settings import read_run
from llm_jepa.runs.trained_run import load_run

TOKENIZER = {"tokenizer.json", "tokenizer_config.json"}
WHOLE = {"README.md", "config.json", "generation_config.json", "model.safetensors", *TOKENIZER}
ADAPTED = {"README.md", "adapter_config.json", "adapter_model.safetensors", *TOKENIZER}

# What somebody without this package does: take the Python of the card, as it is written, with a text of their own.
SERVE = """
import re, sys
sys.modules["llm_jepa"] = None  # importing it is an error from here on
card, text = open("README.md").read(), sys.argv[1]
(snippet,) = re.findall(r"```python\\n(.*?)```", card, flags=re.DOTALL)
snippet = snippet.replace("YOUR TEXT", text)
exec(re.sub("folder = .*", "folder = '.'", snippet))
"""


@pytest.fixture(scope="module")
def whole_run(tiny_settings, pair_files, tmp_path_factory):
    """A run that trained all weights, in an experiment of one. Read only."""
    folder = tmp_path_factory.mktemp("whole")
    settings = tiny_settings(max_steps=6, learning_rate=5e-3)
    train_run(read_run(settings), 7, folder / "jepa-s7")
    return folder / "jepa-s7"


@pytest.fixture
def here(lora_run, tmp_path, monkeypatch):
    """A copy of the LoRA run and its base, in the current folder."""
    shutil.copytree(lora_run.parent, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return Path("run")


def names(folder):
    return {path.name for path in Path(folder).iterdir()}


@torch.no_grad()
def logits(model, ids=(5, 6, 7, 8)):
    return model.eval()(torch.tensor([ids])).logits


def serve(folder, text):
    """Answer a text as the card says, in a process that cannot import this package."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", SERVE, text]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.rstrip("\n")


# ---- what is written ----


def test_a_whole_model_is_exported_as_plain_transformers_have_it(whole_run, tmp_path):
    """The same logits and vocabulary; nothing that only this package reads, which some servers would stumble over."""
    done = export_run(whole_run, tmp_path / "a" / "out")
    assert (done["kind"], done["base"]) == ("model", None)
    assert names(tmp_path / "a" / "out") == WHOLE and names(tmp_path / "a") == {"out"}
    run = load_run(whole_run)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "a" / "out")
    assert torch.equal(logits(model), logits(run.jepa.model))
    assert model.config.vocab_size == run.jepa.model.config.vocab_size
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a" / "out")
    assert tokenizer.get_vocab() == run.encoder.tokenizer.get_vocab()


def test_a_model_in_several_files_is_scored_and_exported_as_one_in_one(
    whole_run, tiny_settings, pair_files, tmp_path, monkeypatch, raises
):
    """Same answers, same logits; a missing file of the weights is told, and nothing is left of the export."""
    settings = tiny_settings(max_steps=6, learning_rate=5e-3, max_shard_size="20KB")
    train_run(read_run(settings), 7, tmp_path / "run")
    *_, last = shards = sorted((tmp_path / "run" / "model").glob("model-*-of-*.safetensors"))
    assert len(shards) > 3
    assert (tmp_path / "run" / "predictions.jsonl").read_bytes() == (whole_run / "predictions.jsonl").read_bytes()
    export_run(tmp_path / "run", tmp_path / "out")
    several = {shard.name for shard in shards} | {"model.safetensors.index.json"}
    assert names(tmp_path / "out") == WHOLE - {"model.safetensors"} | several
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(logits(model), logits(load_run(whole_run).jepa.model))
    assert torch.equal(logits(model), logits(load_run(tmp_path / "run").jepa.model))
    export_run(tmp_path / "run", tmp_path / "out", force=True)
    last.unlink()
    with raises("checkpoint_damaged", last.name):
        export_run(tmp_path / "run", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_an_adapter_is_exported_as_plain_peft_has_it(here):
    done = export_run(here, "out")
    assert (done["kind"], done["base"]) == ("adapter", "./base/llama")
    assert names("out") == ADAPTED
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base/llama"), "out")
    assert torch.equal(logits(plain), logits(load_run(here).jepa.model))


def test_a_merged_model_needs_its_base_no_more(here):
    """Its logits are the adapter's within rounding, and its vocabulary is the base's."""
    done = export_run(here, "out", merge=True)
    expected = logits(load_run(here).jepa.model)
    before = logits(AutoModelForCausalLM.from_pretrained("base/llama"))
    shutil.rmtree("base")
    assert done["kind"] == "merged" and names("out") == WHOLE
    model, info = AutoModelForCausalLM.from_pretrained("out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.allclose(logits(model), expected, atol=1e-5) and not torch.allclose(before, expected, atol=1e-3)
    assert done["max_logit_difference"] < 1e-5
    assert model.config.vocab_size == before.shape[-1]


def test_merging_a_whole_model_gives_the_whole_model(whole_run, tmp_path):
    """What is asked for is a folder that needs no other, and it is one."""
    assert export_run(whole_run, tmp_path / "out", merge=True)["kind"] == "model"
    assert names(tmp_path / "out") == WHOLE


def test_settings_of_the_pretrained_model_that_change_answers_are_left_out(whole_run, here, tmp_path):
    """The run's answers were made without its repetition penalty or sampling; an adapter's lines do without it too."""
    file = tmp_path / "run" / "model" / "generation_config.json"
    shutil.copytree(whole_run, tmp_path / "run")
    own = json.loads(file.read_text())
    file.write_text(json.dumps(own | {"repetition_penalty": 1.8, "do_sample": True, "forced_eos_token_id": 3}))
    export_run(tmp_path / "run", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert written.keys() <= {"bos_token_id", "eos_token_id", "pad_token_id"}
    done = export_run(here, "out")
    assert "model.generation_config = GenerationConfig()" in done["python"]
    assert '"repetition_penalty": 1.0' in "\n".join(done["serve"])


def test_a_slow_copy_is_not_exported(tiny_settings, pair_files, tmp_path):
    """Its file of weights would stop a server; and such a folder is overwritten with force, as any export."""
    train_run(read_run(tiny_settings(max_steps=2, jepa_target="ema")), 7, tmp_path / "run")
    for force in (False, True):
        export_run(tmp_path / "run", tmp_path / "out", force=force)
        assert names(tmp_path / "out") == WHOLE


def test_the_cards_python_asks_with_the_tokens_of_training():
    """One begin token, and no end token, whatever the tokenizer adds by itself."""
    asked = []

    class Tokenizer:
        from_pretrained = classmethod(lambda cls, folder: cls())

        def __call__(self, text, add_special_tokens=True):
            return {"input_ids": [7, 8, 9] if not add_special_tokens else [1, 7, 8, 9, 2]}

    lines = python_snippet(Exported("model", bos_ids=[1], bridge_ids=[4], end_ids=[2]), "out").splitlines()
    own = [line for line in lines if line.startswith(("text =", "ids =", "tokenizer ="))]
    exec("\n".join([*own, "asked += ids"]), {"AutoTokenizer": Tokenizer, "folder": "out", "asked": asked})
    assert asked == [1, 7, 8, 9, 4]


def test_generation_stops_at_every_token_that_ended_an_answer(whole_run, tmp_path):
    """A chat model has two; config.json knows one, and it does not win."""
    export_run(whole_run, tmp_path / "out")
    model_folder._let_generation_stop(tmp_path / "out", [1, 9], 0)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.generation_config.eos_token_id == [1, 9] and model.config.eos_token_id == 1
    ids = torch.tensor([[5, 6, 7, 2]])
    free = model.generate(ids, do_sample=False, max_new_tokens=6, eos_token_id=[])[0, 4:].tolist()
    model_folder._let_generation_stop(tmp_path / "out", [free[0]], 0)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.generate(ids, do_sample=False, max_new_tokens=6)[0, 4:].tolist() == free[:1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["model", "merged", "adapter"])
def test_the_cards_python_serves_the_folder_where_this_package_cannot_be_imported(kind, whole_run, here, tmp_path):
    """The answer is the run's own, character for character."""
    run = whole_run if kind == "model" else here
    folder = export_run(run, tmp_path / "out", merge=kind == "merged")["out"]
    if kind == "adapter":  # its base is named from the folder where it was trained
        shutil.copytree("base", tmp_path / "out" / "base")
    answers = [serve(folder, text) for text in ("lines with a dog", "lines that end with a number")]
    assert answers == [load_run(run).generate(text) for text in ("lines with a dog", "lines that end with a number")]
    assert all(answers)


def test_the_run_is_only_read(here, contents):
    before = contents(here)
    export_run(here, "one")
    export_run(here, "two", merge=True)
    assert contents(here) == before


# ---- the card ----


def test_the_card_tells_data_settings_curves_results_cost_and_limits(whole_run, tmp_path):
    card = Path(export_run(whole_run, tmp_path / "out")["out"], "README.md").read_text()
    assert [line[3:] for line in card.splitlines() if line.startswith("## ")] == [
        "Use", "Data", "Training", "Curves", "Results", "Cost", "Limits",
    ]  # fmt: skip
    header = yaml.safe_load(card.split("---")[1])
    assert header["library_name"] == "transformers" and "base_model" not in header
    report = json.loads((whole_run / "eval.json").read_text())
    assert f"On 12 test rows: exact match {report['exact_match']:.1%}" in card
    assert re.search(r"\| train \| 52 \| 60 \| 8 to_validation \|", card)
    assert re.search(r"`train.jsonl`, sha256 `[0-9a-f]{16}`", card)
    assert "max_steps: 6" in card and "6 steps on" in card
    steps = re.findall(r"^\| (\d+) \|", card, flags=re.MULTILINE)
    assert steps == ["1", "2", "3", "4", "5", "6"]
    assert "One run with one seed" in card


def test_the_card_gives_away_no_place(whole_run, tmp_path):
    """G4: the folders where data and model lay; a token cannot be among the settings (tests of settings)."""
    shutil.copytree(whole_run, tmp_path / "run")
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    more = ("views_file", "databases", "pseudo_label_gold_file")
    settings |= {name: f"/secret/place/{name}.x" for name in more} | {"plugins": ["/secret/place/mine.py"]}
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(settings))
    card = Path(export_run(tmp_path / "run", tmp_path / "out")["out"], "README.md").read_text()
    for word in (str(whole_run.parent), str(Path.home()) + "/", sys.prefix, "/secret/place"):
        assert word not in card
    assert all(name in card for name in ("views_file.x", "mine.py"))


def test_the_card_of_a_run_of_an_experiment_has_its_intervals(whole_run, tmp_path):
    """The table, each sentence with its interval, and no word of a single run."""
    home = tmp_path / "experiment"
    shutil.copytree(whole_run.parent, home)
    comparison = {"arm": "jepa", "baseline": "ntp", "delta": 0.123, "ci95": [0.01, 0.236], "verdict": "better", "n": 3}
    comparison |= {"p_value": 0.04, "p_holm": 0.04, "sentence": "jepa: [1, 2] <b>"}
    comparison["differences"] = {"7": 0.11, "8": 0.12, "9": 0.14}
    summary = {"seeds": {"7": 0.48, "8": 0.5, "9": 0.52}, "mean": 0.5, "std": 0.02, "n": 3}
    results = {
        "metric": "exact_match",
        "baseline": "ntp",
        "arms": {"ntp": summary, "jepa": summary},
        "comparisons": [comparison],
        "cost": {"jepa": {"step_time_ratio": 1.234}},
        "runs": [{"arm": "jepa", "seed": 7}],
        "notes": ["Seeds were added."],
    }
    (home / "results.json").write_text(json.dumps(results))
    card = Path(export_run(home / "jepa-s7", tmp_path / "out")["out"], "README.md").read_text()
    assert r"| jepa | 3 | 50.0 ± 2.0 | +12.3 \[+1.0, +23.6\] | 0.040 | better |" in card
    assert r"- jepa: \[1, 2\] &lt;b>" in card and "1.23 times as long as one of `ntp`" in card
    assert "Is jepa better than ntp? **Yes; no control was run.**" in card and "- Seeds were added." in card
    assert "One run with one seed" not in card
    results["runs"] = [{"arm": "jepa", "seed": 8}]  # results of other runs are none of its
    (home / "results.json").write_text(json.dumps(results))
    card = Path(export_run(home / "jepa-s7", tmp_path / "other")["out"], "README.md").read_text()
    assert "+12.3" not in card and "One run with one seed" in card


def test_a_collapse_is_said_first_among_the_limits(whole_run, tmp_path):
    home = tmp_path / "run"
    shutil.copytree(whole_run, home)
    report = json.loads((home / "eval.json").read_text())
    report["alarm"] = {"alarmed": True, "first_step": 3, "reason": "All codes are alike.", "recovered": False}
    (home / "eval.json").write_text(json.dumps(report))
    card = Path(export_run(home, tmp_path / "out")["out"], "README.md").read_text()
    assert "## Limits\n\n- The collapse alarm went off: All codes are alike.\n" in card


def test_commands_fit_a_terminal_and_say_what_they_serve():
    """80 columns, whatever is served; the name of the folder stands on a line of its own."""
    common = {"bridge_ids": [198], "bridge": "\n", "end_ids": [1, 2], "max_new_tokens": 64}
    for chat in (False, True):
        kwargs = {"enable_thinking": False} if chat else {}
        for model in (
            Exported("model", is_chat=chat, chat_template_kwargs=kwargs, **common),
            Exported("adapter", base="org/base", lora_r=24, is_chat=chat, **common),
        ):
            commands = "\n".join(server_commands(model, "my model"))
            lines = [*commands.splitlines(), *python_snippet(model, "my model").splitlines()]
            assert max(map(len, lines)) <= 80
            assert lines[0] == "MODEL='my model'"
            compile(python_snippet(model, "my model"), "snippet", "exec")
            assert subprocess.run(["bash", "-n", "-c", commands], check=False).returncode == 0
            body = re.search(r"-d '(.*)'", commands.replace("'\"$MODEL\"'", "x"), flags=re.DOTALL).group(1)
            assert json.loads(body).keys() >= {"model", "messages" if chat else "prompt"}
    assert "--max-lora-rank 32" in "\n".join(lines) and "/chat/completions" in "\n".join(lines)


# ---- what is refused ----


def test_nothing_is_overwritten_without_force_and_only_exports_with_it(here, contents, raises):
    """Another folder, a file, a model of somebody's, an export with a file added to it: all stay as they are."""
    export_run(here, "out")
    first = contents(Path("out"))
    with raises("file_exists", "out", "--force"):
        export_run(here, "out", merge=True)
    assert contents(Path("out")) == first
    export_run(here, "out", merge=True, force=True)
    assert names("out") == WHOLE

    Path("out", "notes.txt").write_text("mine")
    with raises("not_an_export", "out", "notes.txt"):
        export_run(here, "out", force=True)
    Path("file").write_text("mine")
    with raises("not_a_folder", "file"):
        export_run(here, "file", force=True)
    with raises("not_an_export", "base/llama"):
        export_run(here, "base/llama", force=True)
    Path("link").symlink_to("out")
    with raises("not_a_folder", "link"):
        export_run(here, "link", force=True)
    assert Path("file").read_text() == "mine" and Path("base/llama/model.safetensors").is_file()
    assert not [name for name in names(".") if name.startswith(".")]


@pytest.mark.parametrize("to", ["run", "run/model", "run/out", "."])
def test_a_destination_that_touches_the_run_is_refused(to, here, raises):
    with raises("output_is_input", f"--to {to}"):
        export_run(here, to, force=True)


def test_a_run_that_is_not_finished_is_refused(here, raises):
    """Half of a run has a model of no known score."""
    (here / "DONE").unlink()
    with raises("run_not_finished", "run", "DONE"):
        export_run(here, "out")
    with raises("not_a_run", "base", "config.yaml"):
        export_run("base", "out")
    assert not Path("out").exists() and is_run(here) and not is_run(Path("base"))


def test_damage_leaves_nothing_behind(here, monkeypatch, raises):
    """Weights cut short, another tokenizer, a merge that goes wrong: told, and no half of an export stays."""
    weights = here / "model" / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-50])
    with raises("checkpoint_damaged", weights.name):
        export_run(here, "out")
    with raises("model_not_loadable", "run/model"):
        export_run(here, "out", merge=True)
    weights.write_bytes(content)
    settings = here / "model" / "adapter_config.json"
    whole = settings.read_text()
    settings.write_text(whole[:-9])
    for merge in (False, True):
        with raises("checkpoint_damaged", settings):
            export_run(here, "out", merge=merge)
    settings.write_text(whole)
    with monkeypatch.context() as patch:
        patch.setattr(model_folder, "MAX_DIFFERENCE", -1.0)
        with raises("merge_differs", "--merge", exit_code=1):
            export_run(here, "out", merge=True)
    train_tokenizer(["other words"], 280).save_pretrained(here / "model")
    with raises("tokenizer_changed", "run/model", "sha256"):
        export_run(here, "out")
    assert "out" not in names(".") and not [name for name in names(".") if name.startswith(".")]


# ---- the command ----


def test_the_command_prints_what_serves_the_folder(here, capsys):
    assert main(["export", "run", "--to", "out", "--merge"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1]).items() >= {"run": "run", "out": "out", "kind": "merged"}.items()
    assert 'transformers serve "$MODEL"' in lines and "folder = 'out'" in lines
    assert max(map(len, lines[:-1])) <= 80
    assert main(["export", "run", "--to", "out"]) == 2
    assert "[file_exists]" in capsys.readouterr().err
