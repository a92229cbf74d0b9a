"""The command that re-tests the papers' claims: `reproduce`."""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_jepa.errors import ConfigError
from llm_jepa.files import expanded
from llm_jepa.progress import WIDTH

from .parsing import add_command, add_set, overrides, positive, seeds_in
from .printing import print_hanging

if TYPE_CHECKING:
    from llm_jepa.papers.claims.reproduce import Call


def register(commands: Any) -> None:
    """Add the command of this module to the parser."""
    reproduce = add_command(
        commands, "reproduce", _reproduce, "run a claim of the papers again, and judge it", main_file="{results}"
    )
    text = "ids, patterns such as 'llmjepa.t3.*', or experiments such as finetune (docs/claims.md)"
    reproduce.add_argument("claims", nargs="*", metavar="CLAIM_ID", help=text)
    reproduce.add_argument("--list", action="store_true", help="show every claim, and what it needs")
    text = "full: the papers' model and size (default). tiny: the same experiment on a small model trained here"
    reproduce.add_argument("--scale", choices=["full", "tiny"], default="full", help=text)
    text = "as_published: the papers' protocol (default). fixed: without the accidental effects of their script"
    reproduce.add_argument("--recipe", choices=["as_published", "fixed"], default="as_published", help=text)
    reproduce.add_argument("--out", type=expanded, metavar="DIR", help="folder of experiments (runs/claims)")
    reproduce.add_argument("--data", type=expanded, metavar="DIR", help="folder of the data files (../shared/data)")
    reproduce.add_argument("--results", type=expanded, metavar="DIR", help="folder of the records (OUT/results)")
    text = "use the finished runs of this folder (an earlier OUT, or its experiment), and run nothing"
    reproduce.add_argument("--from", type=expanded, dest="source", metavar="DIR", help=text)
    reproduce.add_argument("--seeds", metavar="82,23,37", help="seeds (the papers': 82,23,37,84,4)")
    reproduce.add_argument("--workers", type=positive, metavar="N", help="runs at the same time (full 1, tiny 2)")
    reproduce.add_argument("--dry-run", action="store_true", help="print the configuration and what is missing")
    add_set(reproduce)


def _reproduce(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.list:
        return _list(arguments.claims)
    if not arguments.claims:
        text = "No claim is named. `llm-jepa reproduce --list` shows all claims. Name one, such as llmjepa.t2.synth."
        raise ConfigError("setting_missing", text)
    from llm_jepa.papers.claims.plans import DATA
    from llm_jepa.papers.claims.reproduce import OUT, Call

    call = Call(
        patterns=arguments.claims,
        scale=arguments.scale,
        recipe=arguments.recipe,
        out=arguments.out or Path(OUT),
        data=arguments.data or Path(DATA),
        results=arguments.results,
        source=arguments.source,
        seeds=None if arguments.seeds is None else seeds_in(arguments.seeds),
        workers=arguments.workers,
        changes=overrides(arguments),
        progress=sys.stderr.isatty(),
    )
    return _dry_run(call) if arguments.dry_run else _run(call)


def _list(patterns: list[str]) -> dict[str, Any]:
    from llm_jepa.papers.claims.catalogue import find
    from llm_jepa.papers.claims.plans import plan_of
    from llm_jepa.papers.claims.resources_needed import datasets_of, gpu_hours, weights_of
    from llm_jepa.text_tables import cut_in_the_middle, text_table

    rows = [["claim", "weights", "data", "GPU h", "tiny", "full"]]
    claims = find(patterns or ["*"])
    for claim in claims:
        data = cut_in_the_middle("+".join(each.stem for each in datasets_of(claim)) or "-", 12)
        hours = "-" if (number := gpu_hours(claim)) is None else f"{number:.1f}"
        tiny, full = (plan_of(claim.id, scale) for scale in ("tiny", "full"))
        scales = [tiny.name if tiny else "-", "yes" if full else "-"]
        rows.append([claim.id, weights_of(claim), data, hours, *scales])
    print(text_table(rows, WIDTH, left=(0, 1, 2, 4, 5)))
    print()
    about = "weights, data and hours of one H100 are for the papers' size (docs/claims.md has the formula)."
    about += " tiny: the experiment of --scale tiny that decides the claim. full: whether --scale full can."
    print(textwrap.fill(about, WIDTH))
    decided = {scale: sum(plan_of(claim.id, scale) is not None for claim in claims) for scale in ("tiny", "full")}
    return {"claims": len(claims), **decided, "ids": [claim.id for claim in claims]}


def _dry_run(call: Call) -> dict[str, Any]:
    from llm_jepa.experiments.experiment import read_experiment
    from llm_jepa.papers.claims.reproduce import missing_files, select, settings_of
    from llm_jepa.yaml_loading import dump_yaml

    selection = select(call)
    missing, runs = [], 0
    for plan, claims in selection.plans:
        settings = settings_of(call, plan, claims)
        config, arms = read_experiment(settings)
        runs += len(arms) * len(config.seeds)
        print(f"# {plan.title}: {len(arms)} arms x {len(config.seeds)} seeds, in {call.out / plan.name}")
        if plan.base:
            print(f"# starts from {call.out / 'base'}, trained here on half of the rows")
        print(dump_yaml(settings, sort_keys=False))
        missing += missing_files(call, plan)
    for each in missing:
        print_hanging("missing  ", each)
    for claim, reason in selection.left_out.items():
        print_hanging("left out  ", f"{claim}: {reason}")
    experiments = [plan.name for plan, _ in selection.plans]
    return {"dry_run": True, "experiments": experiments, "runs": runs, "missing": missing}


def _run(call: Call) -> dict[str, Any]:
    from llm_jepa.papers.claims import wording
    from llm_jepa.papers.claims.reproduce import reproduce, select
    from llm_jepa.text_tables import text_table

    left_out = select(call).left_out
    verdicts: dict[str, str] = {}
    for record, judged in reproduce(call):
        rows = [["claim", "theirs", "verdict"]]
        rows += [[claim, wording.theirs(each.claim, each.checks[0]), each.word] for claim, each in judged.items()]
        print(f"{record['experiment']} | scale {record['scale']} | recipe {record['recipe']}")
        print(text_table(rows, WIDTH, left=(0, 2)))
        for claim, each in judged.items():
            print()
            print(textwrap.fill(f"{claim}  {wording.sentence(each)}", WIDTH, subsequent_indent="  "))
            verdicts[claim] = each.word
        if record["changed"]:
            print()
            print_hanging("note  ", f"Settings were changed, so this is not the protocol: {record['changed']}.")
        print()
    if call.scale == "tiny":
        print_hanging("note  ", "At tiny scale a verdict is about this small model, not about the papers' models.")
    for claim, reason in left_out.items():
        print_hanging("left out  ", f"{claim}: {reason}")
    return {"scale": call.scale, "recipe": call.recipe, "results": str(call.results_folder), "verdicts": verdicts}
