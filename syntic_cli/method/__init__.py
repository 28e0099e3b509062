"""The method of SynTIC (AAAI 2024) on tensors: no files, no pretrained models."""
