"""Fast mode on GPUs: products together with their activations. Not yet measured on one."""
