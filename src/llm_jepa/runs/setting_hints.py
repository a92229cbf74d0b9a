"""Names of settings in transformers, TRL and other tools.

Such a name is an error, because the tools differ in more than names. The error says what the setting is called here.
"""

from __future__ import annotations

_NAMES: dict[str, str] = {
    # transformers, earlier or by another name
    "train_sampling_strategy: group_by_length": "group_by_length",
    "per_device_train_batch_size": "batch_size train_batch_size per_gpu_train_batch_size",
    "per_device_eval_batch_size": "eval_batch_size per_gpu_eval_batch_size",
    "num_train_epochs": "epochs num_epochs",
    "max_steps": "steps num_steps",
    "learning_rate": "lr",
    "gradient_accumulation_steps": "grad_accum gradient_accumulation",
    "lr_scheduler_type": "lr_scheduler",
    "optim": "optimizer",
    "eval_strategy": "evaluation_strategy",
    "warmup_steps (below 1, it is a share of all steps)": "warmup_ratio",
    "use_cpu": "no_cuda",
    "nothing: a GPU that is there is used": "use_mps_device",
    "nothing: each run's log is metrics.jsonl in its folder": "logging_dir",
    "nothing: a run is never written over; choose another --out": "overwrite_output_dir",
    "nothing: weights are always safetensors": "save_safetensors",
    "fp16": "fp16_backend",
    "precision": "half_precision_backend mixed_precision",
    "metric": "include_inputs_for_metrics",
    "nothing: set HF_HOME in the environment": "cache_dir",
    # TRL: SFTConfig, ScriptArguments, ModelConfig
    "train_file (a file, a folder, or owner/name on the hub)": "dataset_name",
    "train_file": "dataset_config",
    "train_file: owner/name:SPLIT": "dataset_train_split",
    "test_file: owner/name:SPLIT": "dataset_test_split",
    "text_column": "dataset_text_field",
    "nothing: rows are read by one process": "dataset_num_proc",
    "nothing: rows are prepared in one way (docs/data.md)": "dataset_kwargs",
    "max_length": "max_seq_length",
    "nothing: the chat template is the tokenizer's": "chat_template_path",
    "tokenizer_name_or_path (a tokenizer with that token)": "eos_token pad_token",
    "packing": "packing_strategy padding_free eval_packing",
    "nothing: rows are padded to the longest of their batch": "pad_to_multiple_of",
    "train_sampling_strategy: random": "shuffle_dataset",
    "loss_on: code": "completion_only_loss assistant_only_loss",
    "nothing: the cross-entropy is plain; jepa_distance is the JEPA term's": "loss_type",
    "gradient_checkpointing": "activation_offloading",
    "nothing: set attn_implementation, weights_dtype or model_revision directly": "model_init_kwargs",
    "precision (of training), or weights_dtype": "dtype torch_dtype",
    "lora_r (such as 16)": "use_peft lora",
    "nothing: it is a causal language model": "lora_task_type",
    "lora_alpha": "use_rslora",
    "nothing: LoRA is plain": "use_dora",
    "quantization: 4bit": "load_in_4bit",
    "quantization: 4bit (there is no 8bit)": "load_in_8bit",
    "model_revision": "revision",
    "model_name_or_path": "model_path model_name",
    "tokenizer_name_or_path": "tokenizer tokenizer_path",
    "resources: {gpus: 1}": "gpus",
    # the published LLM-JEPA script
    "validation_file, or test_file for rows that are only scored at the end": "eval_file",
    "validation_size": "validation_split",
    "train_file, with validation_size": "data_file",
    "validation_size (a number of rows)": "eval_split",
    "nothing: validation rows are the same for every seed": "split_seed",
    "seeds": "finetune_seed",
    "jepa_lambda": "lbd lambda",
    "jepa_gamma": "gamma",
    "jepa_k": "predictors k",
    "jepa_lambda: 0 (the arm ntp)": "regular",
    "nothing: the last token of a view is found automatically": "last_token",
    "jepa_loss_dropout (1 - jepa_ratio)": "jepa_ratio",
    "nothing: both views are always in one pass": "additive_mask",
    "jepa_distance: l2": "jepa_l2",
    "jepa_distance: mse": "jepa_mse",
    "jepa_distance: infonce": "infonce",
    "jepa_distance": "jepa_metric",
    "jepa_loss_dropout": "jepa_dropout",
    "jepa_pred_position: prepend": "front_pred",
    "jepa_direction: code_to_text": "reverse_pred",
    "loss_on: all": "train_all",
    "nothing: rows of text and code have no chat format": "plain",
    "model: a preset such as llama-1b, without model_name_or_path": "pretrain",
    "lora_r": "lora_rank rank",
    "compare_at: [steps, flops]": "same_flop",
    "nothing: FLOPs are always counted": "track_flop",
    "save_strategy: no": "no_save",
    "report_to: wandb": "wandb",
    "nothing: set WANDB_PROJECT in the environment": "wandb_project",
    "run_name": "wandb_run_name",
    "validation_generations (a number of rows)": "eval_accuracy",
    "eval_steps": "eval_accuracy_steps",
    "max_new_tokens": "max_new_tokens_eval",
    "validation_generations": "max_eval_samples",
}
"""What a setting is called here (a key, a key with a value, or `nothing` with the reason), and its names elsewhere."""

OTHER_NAMES = {name: here for here, names in _NAMES.items() for name in names.split()}


def hint_of(name: str) -> str:
    """Return what an error adds about a name of another tool; "" if no other tool has the name.

    >>> hint_of("lbd"), hint_of("use-peft"), hint_of("colour")
    (' Here it is jepa_lambda.', ' Here it is lora_r (such as 16).', '')
    """
    here = OTHER_NAMES.get(name.replace("-", "_"))
    if here is None:
        return ""
    return f" Remove it; {here.removeprefix('nothing: ')}." if here.startswith("nothing") else f" Here it is {here}."
