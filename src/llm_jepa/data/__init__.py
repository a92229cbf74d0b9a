"""Files of rows become encoded pairs: formats, tokenizer, chat templates, checks and splits."""
