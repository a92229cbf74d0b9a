"""Names of settings in transformers, TRL and other tools.

Such a name is an error, because the tools differ in more than names. The error says what the setting is called here.
"""

from __future__ import annotations

OTHER_NAMES: dict[str, str] = {
    # transformers, earlier or by another name
    "group_by_length": "train_sampling_strategy: group_by_length",
    "batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "steps": "max_steps",
    "num_steps": "max_steps",
    "lr": "learning_rate",
    "grad_accum": "gradient_accumulation_steps",
    "gradient_accumulation": "gradient_accumulation_steps",
    "lr_scheduler": "lr_scheduler_type",
    "optimizer": "optim",
    "evaluation_strategy": "eval_strategy",
    "warmup_ratio": "warmup_steps (below 1, it is a share of all steps)",
    "no_cuda": "use_cpu",
    "use_mps_device": "nothing: a GPU that is there is used",
    "logging_dir": "nothing: each run's log is metrics.jsonl in its folder",
    "overwrite_output_dir": "nothing: a run is never written over; choose another --out",
    "save_safetensors": "nothing: weights are always safetensors",
    "fp16_backend": "fp16",
    "half_precision_backend": "precision",
    "mixed_precision": "precision",
    "include_inputs_for_metrics": "metric",
    "cache_dir": "nothing: set HF_HOME in the environment",
    # TRL: SFTConfig, ScriptArguments, ModelConfig
    "dataset_name": "train_file (a file, a folder, or owner/name on the hub)",
    "dataset_config": "train_file",
    "dataset_train_split": "train_file: owner/name:SPLIT",
    "dataset_test_split": "test_file: owner/name:SPLIT",
    "dataset_text_field": "text_column",
    "dataset_num_proc": "nothing: rows are read by one process",
    "dataset_kwargs": "nothing: rows are prepared in one way (docs/data.md)",
    "max_seq_length": "max_length",
    "chat_template_path": "nothing: the chat template is the tokenizer's",
    "eos_token": "tokenizer_name_or_path (a tokenizer with that token)",
    "pad_token": "tokenizer_name_or_path (a tokenizer with that token)",
    "packing_strategy": "packing",
    "padding_free": "packing",
    "eval_packing": "packing",
    "pad_to_multiple_of": "nothing: rows are padded to the longest of their batch",
    "shuffle_dataset": "train_sampling_strategy: random",
    "completion_only_loss": "loss_on: code",
    "assistant_only_loss": "loss_on: code",
    "loss_type": "nothing: the cross-entropy is plain; jepa_distance is the JEPA term's",
    "activation_offloading": "gradient_checkpointing",
    "model_init_kwargs": "nothing: set attn_implementation, weights_dtype or model_revision directly",
    "dtype": "precision (of training), or weights_dtype",
    "torch_dtype": "precision (of training), or weights_dtype",
    "use_peft": "lora_r (such as 16)",
    "lora_task_type": "nothing: it is a causal language model",
    "use_rslora": "lora_alpha",
    "use_dora": "nothing: LoRA is plain",
    "load_in_4bit": "quantization: 4bit",
    "load_in_8bit": "quantization: 4bit (there is no 8bit)",
    "revision": "model_revision",
    "model_path": "model_name_or_path",
    "tokenizer": "tokenizer_name_or_path",
    "tokenizer_path": "tokenizer_name_or_path",
    "gpus": "resources: {gpus: 1}",
    # the published LLM-JEPA script
    "model_name": "model_name_or_path",
    "eval_file": "validation_file, or test_file for rows that are only scored at the end",
    "validation_split": "validation_size",
    "data_file": "train_file, with validation_size",
    "eval_split": "validation_size (a number of rows)",
    "split_seed": "nothing: validation rows are the same for every seed",
    "finetune_seed": "seeds",
    "lbd": "jepa_lambda",
    "lambda": "jepa_lambda",
    "gamma": "jepa_gamma",
    "predictors": "jepa_k",
    "k": "jepa_k",
    "regular": "jepa_lambda: 0 (the arm ntp)",
    "last_token": "nothing: the last token of a view is found automatically",
    "jepa_ratio": "jepa_loss_dropout (1 - jepa_ratio)",
    "additive_mask": "nothing: both views are always in one pass",
    "jepa_l2": "jepa_distance: l2",
    "jepa_mse": "jepa_distance: mse",
    "infonce": "jepa_distance: infonce",
    "jepa_metric": "jepa_distance",
    "jepa_dropout": "jepa_loss_dropout",
    "front_pred": "jepa_pred_position: prepend",
    "reverse_pred": "jepa_direction: code_to_text",
    "train_all": "loss_on: all",
    "plain": "nothing: rows of text and code have no chat format",
    "pretrain": "model: a preset such as llama-1b, without model_name_or_path",
    "lora": "lora_r (such as 16)",
    "lora_rank": "lora_r",
    "rank": "lora_r",
    "same_flop": "compare_at: [steps, flops]",
    "track_flop": "nothing: FLOPs are always counted",
    "no_save": "save_strategy: no",
    "wandb": "report_to: wandb",
    "wandb_project": "nothing: set WANDB_PROJECT in the environment",
    "wandb_run_name": "run_name",
    "eval_accuracy": "validation_generations (a number of rows)",
    "eval_accuracy_steps": "eval_steps",
    "max_new_tokens_eval": "max_new_tokens",
    "max_eval_samples": "validation_generations",
}
"""The name elsewhere, and what it is here: a key, a key with a value, or `nothing` with the reason."""


def hint_of(name: str) -> str:
    """Return what an error adds about a name of another tool; "" if no other tool has the name.

    >>> hint_of("lbd"), hint_of("use-peft"), hint_of("colour")
    (' Here it is jepa_lambda.', ' Here it is lora_r (such as 16).', '')
    """
    here = OTHER_NAMES.get(name.replace("-", "_"))
    if here is None:
        return ""
    return f" Remove it; {here.removeprefix('nothing: ')}." if here.startswith("nothing") else f" Here it is {here}."
