"""F1, F2, F4, F5: what is loaded runs no code and belongs together, versions with known holes stay out, names stay in
their folder."""

from __future__ import annotations

import pickle
import re
import shutil
import tomllib
from pathlib import Path

import pytest

from llm_jepa.data.tokenizer import check_tokenizer_fits, train_tokenizer
from llm_jepa.experiments.experiment import read_experiment
from llm_jepa.objective import JEPAConfig
from llm_jepa.training.arguments import JEPATrainingArguments
from llm_jepa.training.checkpoints import MANIFEST, publish
from llm_jepa.training.resume import check_resume, describe_run

ROOT = Path(__file__).parents[2]


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_f1_code_in_a_checkpoint_does_not_run(name, make_run, tmp_path, fault_row, raises):
    """Also where whoever put it there wrote the manifest anew."""
    trainer = make_run("run", max_steps=2)
    trainer.train()
    shutil.rmtree(Path(trainer.args.output_dir) / "checkpoint-2")
    checkpoint, marker = Path(trainer.args.output_dir) / "checkpoint-1", tmp_path / "ran"
    facts = make_run("again", max_steps=2).facts()
    (checkpoint / name).write_bytes(pickle.dumps(Bomb(marker)))
    (checkpoint / MANIFEST).unlink()
    staging = tmp_path / "staging"
    staging.mkdir()
    checkpoint.rename(staging / "checkpoint-1")
    publish(staging, trainer.args.output_dir, 1, facts, {"training_time_s": 1.0, "preparation_time_s": 0.0})
    with fault_row("F1", "a pickle with code in a checkpoint, with a matching manifest", 1) as row:
        with raises("checkpoint_not_plain", checkpoint):
            make_run("run", max_steps=2).train(resume_from_checkpoint=True)
        assert not marker.exists()
        row.passed = 1
    pickle.loads((checkpoint / name).read_bytes())  # the control: where it is loaded, it runs
    assert marker.exists()


def test_f1_no_line_of_ours_loads_pickles():
    """torch.load with weights_only=True or not at all; no pickle.load, no training_args.bin."""
    for path in (ROOT / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for call in re.findall(r"torch\.load\([^)]*\)", text):
            assert "weights_only=True" in call, f"{path}: {call}"
        assert not re.search(r"weights_only\s*=\s*False|pickle\.loads?\(|training_args\.bin", text), path


@pytest.mark.parametrize(("name", "floor"), [("torch", (2, 10)), ("transformers", (5, 5))])
def test_f2_versions_with_known_holes_are_not_installed(name, floor):
    """CVE-2026-24747 (torch before 2.10) and CVE-2026-5241 (transformers before 5.5)."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (requirement,) = [each for each in listed if re.match(rf"{name}\b", each)]
    found = re.search(r">=(\d+)\.(\d+)", requirement)
    assert (int(found[1]), int(found[2])) >= floor


TRICKS = ["../x", "/etc/x", "..", ".hidden", "a/b", "a\\b", "line\nbreak", "nul\0"]


@pytest.mark.parametrize("name", TRICKS)
def test_f5_names_cannot_leave_their_folder(name, fault_row, raises):
    """The name of an arm becomes a folder's."""
    with fault_row("F5", "a file name that points outside its folder", 1) as row:
        with raises("name_not_allowed", repr(name)):
            read_experiment({"arms": {"ntp": {}, name: {"jepa_k": 2}}, "train_file": "a.jsonl"})
        row.passed = 1


def test_f4_another_tokenizer_than_the_checkpoints_is_refused(make_jepa, make_pairs, tmp_path, fault_row, raises):
    """Other cuts, another template, other special tokens: the hash tells; more ids than rows: the numbers do."""
    words = ["lines with a dog", "user assistant"]

    def facts(change=lambda tokenizer: None, trained_on=words):
        tokenizer = train_tokenizer(trained_on, 300)
        change(tokenizer)
        arguments = JEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True)
        return describe_run(arguments, JEPAConfig(), make_pairs(4), tokenizer)

    def set_template(tokenizer):
        tokenizer.chat_template = "{{ messages }}"

    def set_pad(tokenizer):
        tokenizer.pad_token = tokenizer.eos_token

    others = [facts(trained_on=["quite other words"]), facts(set_template), facts(set_pad)]
    with fault_row("F4", "a tokenizer that is not the checkpoint's, or has more ids than the model", 4) as row:
        for other in others:
            with raises("settings_changed", "checkpoint-1", "tokenizer was sha256 ", " and is sha256 "):
                check_resume(facts(), other, [], "checkpoint-1")
            row.passed += 1
        with raises("vocabulary_too_large", "64 rows"):
            check_tokenizer_fits(train_tokenizer(words, 300), make_jepa().backbone.embeddings.num_embeddings)
        row.passed += 1
    assert check_resume(facts(), facts(), [], "checkpoint-1") == []  # the control
